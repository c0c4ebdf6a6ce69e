"""Access to objects on S3, and to local files for local catalogs.

Only this module, its checks in `store_check` and what it is made of (`store_answers`,
`store_errors`, `store_checksums`) use boto3. A `Store` is one client with one identity. Make one
per process and role and share it: boto3 clients are thread-safe and reuse their connections. Every
foreign exception is translated: into a StoreError if it concerns one object, into a FatalError if
it concerns all of them.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ace_tasks.errors import AceError, NotFound, PreconditionFailed, SettingsError, StoreUnavailable
from ace_tasks.local_files import check_size, measure_file, read_file
from ace_tasks.settings import StoreSettings
from ace_tasks.store_answers import ObjectInfo as ObjectInfo
from ace_tasks.store_answers import open_session, read_listings_quickly
from ace_tasks.store_checksums import ChecksumHeaders, sha256_header
from ace_tasks.store_errors import status_of, translate

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_PRESIGN_S = 7 * 24 * 3600  # the limit of SigV4
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
# In the place of 412: S3 for a race of two writers, others for every key that exists.
_MAY_MEAN_TAKEN = {409, 500}
_NO_VERSIONS = {405, 501}
_PART_BYTES = 64 * 2**20  # of an upload; at most 10,000 of them


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/some/key` into ("bucket", "some/key"). The key may be empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def join_uri(prefix: str, key: str) -> str:
    return f"{prefix.rstrip('/')}/{key}"


class Store:
    """An S3 client with one identity. It also reads local paths, so that local catalogs work."""

    def __init__(self, settings: StoreSettings):
        self.settings = settings
        self._patience_s = settings.patience_s
        self._abandoned = threading.Event()
        # (kind of error, whether it was retried) → count. An answer that the caller asked for,
        # such as that an object does not exist, is not trouble.
        self.trouble: Counter[tuple[str, bool]] = Counter()
        try:
            self._client: Any = open_session(settings.profile).client(
                "s3",
                endpoint_url=settings.endpoint_url,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
                    connect_timeout=settings.connect_timeout_s,
                    read_timeout=settings.read_timeout_s,
                    max_pool_connections=settings.max_connections,
                    tcp_keepalive=True,
                    # Without this every other write gets a CRC32, over TLS as a trailer; see
                    # `sha256_header`.
                    request_checksum_calculation="when_required",
                    # For links, botocore still signs with SigV2 in a region that knows both, such
                    # as us-east-1. Buckets made since June 2020 refuse it, and so does SSE-KMS.
                    signature_version="s3v4",
                ),
            )
        except BotoCoreError as error:
            raise translate(error, "s3") from None
        except ValueError as error:  # an endpoint that is no URL
            raise SettingsError(f"object store: {error}") from None
        self._checksums = ChecksumHeaders(self._client)
        read_listings_quickly(self._client)

    def _call(self, uri: str, operation: Callable[[], T], patience_s: float | None = None) -> T:
        """Run an S3 operation, and retry it with jittered backoff while the store is unavailable.

        Raises our errors only, StoreUnavailable after `patience_s` (None: that of the settings).
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        deadline = time.monotonic() + patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._checksums.attempt(operation)
            except (BotoCoreError, Boto3Error, ClientError) as error:
                translated = translate(error, uri)
                waits = isinstance(translated, StoreUnavailable)
                over = self._abandoned.is_set() or time.monotonic() + pause_s > deadline
                again = waits and not over
                if not isinstance(translated, NotFound | PreconditionFailed):
                    self.trouble[type(translated).__name__, again] += 1
                if not again:
                    # `from None`: botocore's text may contain request details.
                    raise translated from None
            log.warning("%s; trying again", translated)
            self._abandoned.wait(random.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    @contextlib.contextmanager
    def in_parallel(self, threads: int) -> Iterator[ThreadPoolExecutor]:
        """Yield a thread pool for calls on this store.

        If the body fails or is cancelled, no further call begins, and from then on this store
        does not retry, so that no thread keeps waiting for an unavailable store.
        """
        pool = ThreadPoolExecutor(threads)
        try:
            yield pool
        except GeneratorExit:  # whoever reads the results has enough of them
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:
            self._abandoned.set()
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()

    # ------------------------------------------------------------ reading

    def head(self, uri: str) -> ObjectInfo:
        """Return the facts about an object. A local file is hashed.

        Raises NotFound, Forbidden and StoreUnavailable.
        """
        if not is_s3(uri):
            size_bytes, sha256 = measure_file(uri)
            return ObjectInfo(uri, size_bytes, etag=sha256, sha256=sha256)
        bucket, key = split_uri(uri)
        answer = self._call(
            uri,
            lambda: self._client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED"),
        )
        checksum = answer.get("ChecksumSHA256")
        whole = checksum and "-" not in checksum  # multipart checksums end in "-<parts>"
        return ObjectInfo(
            uri=uri,
            size_bytes=answer["ContentLength"],
            etag=answer["ETag"].strip('"'),
            sha256=base64.b64decode(checksum).hex() if whole else None,
            modified=answer.get("LastModified"),
        )

    def get(self, uri: str, *, if_match: str | None = None, max_bytes: int | None = None) -> bytes:
        """Return the whole object. `if_match` is the ETag that it must still have.

        Raises NotFound, Forbidden, PreconditionFailed, TooLarge (before reading it) and
        StoreUnavailable.
        """
        return self.get_version(uri, if_match=if_match, max_bytes=max_bytes)[0]

    def get_version(
        self,
        uri: str,
        version_id: str | None = None,
        *,
        if_match: str | None = None,
        max_bytes: int | None = None,
    ) -> tuple[bytes, str | None]:
        """Return one version of an object, by default the newest, and its version id.

        The id is None if the bucket keeps no versions. Raises what `get` raises.
        """
        if not is_s3(uri):
            return read_file(uri, max_bytes), None
        bucket, key = split_uri(uri)
        wanted = {"IfMatch": f'"{if_match}"'} if if_match else {}
        if version_id:
            wanted["VersionId"] = version_id

        def read() -> tuple[bytes, str | None]:
            answer = self._client.get_object(Bucket=bucket, Key=key, **wanted)
            with contextlib.closing(answer["Body"]) as body:
                check_size(uri, answer["ContentLength"], max_bytes)
                found = answer.get("VersionId")
                return bytes(body.read()), None if found == "null" else found

        return self._call(uri, read)

    def download(self, uri: str, path: Path) -> None:
        """Stream an object into a file. Memory use does not depend on its size."""
        bucket, key = split_uri(uri)
        self._call(uri, lambda: self._client.download_file(bucket, key, str(path)))

    def list(self, prefix_uri: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under a prefix, in key order, those `after` a URI if it is given."""
        bucket, prefix = split_uri(prefix_uri)
        request = {"Bucket": bucket, "Prefix": prefix}
        if after:
            request["StartAfter"] = split_uri(after)[1]
        while True:  # page by page, so that a retry repeats no key
            page = self._call(prefix_uri, lambda: self._client.list_objects_v2(**request))
            for each in page.get("Contents", ()):
                yield ObjectInfo(
                    uri=f"s3://{bucket}/{each['Key']}",
                    size_bytes=each["Size"],
                    etag=each["ETag"].strip('"'),
                    modified=each["LastModified"],
                    checksums=tuple(each.get("ChecksumAlgorithm", ())),
                    composite=each.get("ChecksumType") == "COMPOSITE",
                )
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def presign(self, uri: str, expires_s: int = MAX_PRESIGN_S) -> str:
        """Return a link that opens the object without credentials until it expires."""
        bucket, key = split_uri(uri)
        return self._call(
            uri,
            lambda: str(
                self._client.generate_presigned_url(
                    "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s
                )
            ),
        )

    # ------------------------------------------------------------ writing

    def put(self, uri: str, data: bytes, content_type: str) -> str:
        """Write an object, replacing any that exists. Return its ETag."""
        return str(self._put(uri, data, content_type)["ETag"]).strip('"')

    def put_if_absent(self, uri: str, data: bytes, content_type: str) -> bool:
        """Write an object unless its key exists. Return whether this call wrote it.

        False can also mean that an earlier attempt of ours succeeded and its answer was lost. Read
        the object to find out.
        """

        def write() -> None:
            try:
                self._send_put(uri, data, content_type, IfNoneMatch="*")
            except ClientError as error:
                if status_of(error) in _MAY_MEAN_TAKEN and self._exists(uri):
                    raise PreconditionFailed(uri, "the object exists") from None
                raise

        try:
            self._call(uri, write)
        except PreconditionFailed:
            return False
        return True

    def _exists(self, uri: str) -> bool:
        bucket, key = split_uri(uri)
        try:
            self._client.head_object(Bucket=bucket, Key=key)
        except (BotoCoreError, ClientError):
            return False
        return True

    def _put(self, uri: str, data: bytes, content_type: str) -> dict[str, Any]:
        return self._call(uri, lambda: self._send_put(uri, data, content_type))

    def _send_put(self, uri: str, data: bytes, content_type: str, **more: str) -> dict[str, Any]:
        bucket, key = split_uri(uri)
        request = {"Body": data, "ContentType": content_type} | more
        checksum = sha256_header(data)
        answer = self._client.put_object(Bucket=bucket, Key=key, ChecksumSHA256=checksum, **request)
        return dict(answer)

    def upload(self, path: Path, uri: str, content_type: str) -> None:
        """Copy a file into an object, a large one part by part."""
        if path.stat().st_size <= _PART_BYTES:
            self._put(uri, path.read_bytes(), content_type)
            return
        bucket, key = split_uri(uri)
        where = {"Bucket": bucket, "Key": key}
        begin = {**where, "ContentType": content_type, "ChecksumAlgorithm": "SHA256"}
        begun = self._call(uri, lambda: self._client.create_multipart_upload(**begin))
        where["UploadId"] = begun["UploadId"]
        try:
            parts = {"Parts": list(self._upload_parts(path, uri, where))}
            complete = partial(self._client.complete_multipart_upload, MultipartUpload=parts)
            self._call(uri, lambda: complete(**where))
        except BaseException:  # parts without an object cost money until aborted
            with contextlib.suppress(AceError):
                self._call(uri, lambda: self._client.abort_multipart_upload(**where), 0)
            raise

    def _upload_parts(
        self, path: Path, uri: str, where: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        with path.open("rb") as file:
            for number in itertools.count(1):
                data = file.read(_PART_BYTES)
                if not data:
                    return
                part: dict[str, Any] = {"PartNumber": number, "ChecksumSHA256": sha256_header(data)}
                send = partial(self._client.upload_part, Body=data, **where, **part)
                etag = self._call(uri, send)["ETag"]
                if self._checksums.left_out:
                    del part["ChecksumSHA256"]
                yield part | {"ETag": etag}

    def delete(self, uri: str) -> None:
        """Delete an object. It is no error if there is none."""
        bucket, key = split_uri(uri)
        self._call(uri, lambda: self._client.delete_object(Bucket=bucket, Key=key))

    def purge(self, uri: str) -> None:
        """Delete an object, and all its older versions if the bucket keeps them."""
        self.delete(uri)
        self._delete_versions(uri, all_of_them=True)

    def purge_older(self, uri: str) -> None:
        """Delete every version of an object except the newest."""
        self._delete_versions(uri, all_of_them=False)

    def _delete_versions(self, uri: str, *, all_of_them: bool) -> None:
        for version_id, is_latest in self.versions(uri):
            if all_of_them or not is_latest:
                self._delete_version(uri, version_id)

    def _delete_version(self, uri: str, version_id: str) -> None:
        bucket, key = split_uri(uri)
        wanted = {"Bucket": bucket, "Key": key, "VersionId": version_id}
        self._call(uri, lambda: self._client.delete_object(**wanted))

    def versions(self, uri: str) -> tuple[tuple[str, bool], ...]:
        """Return (version id, whether it is the newest) of an object, delete markers included.

        A store that knows no versions (HTTP 405 or 501) has none.
        """
        return tuple((id_, latest) for each, id_, latest in self._versions(uri) if each == uri)

    def _versions(self, prefix_uri: str) -> Iterator[tuple[str, str, bool]]:
        """Yield (URI, version id, whether it is the newest) of all that is under a prefix."""
        bucket, prefix = split_uri(prefix_uri)
        request = {"Bucket": bucket, "Prefix": prefix}

        def list_page() -> dict[str, Any]:
            try:
                return dict(self._client.list_object_versions(**request))
            except ClientError as error:
                if status_of(error) not in _NO_VERSIONS:
                    raise
                return {}

        while True:
            page = self._call(prefix_uri, list_page)
            for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if each.get("VersionId", "null") != "null":
                    uri = f"s3://{bucket}/{each['Key']}"
                    yield uri, each["VersionId"], bool(each["IsLatest"])
            if not page.get("IsTruncated"):
                return
            request["KeyMarker"] = page["NextKeyMarker"]
            request["VersionIdMarker"] = page["NextVersionIdMarker"]

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket. It is no error if it exists and is ours.

        Raises Forbidden if it is somebody else's: what is written there would be theirs.
        """

        def create() -> None:
            with contextlib.suppress(self._client.exceptions.BucketAlreadyOwnedByYou):
                self._client.create_bucket(Bucket=bucket)

        self._call(f"s3://{bucket}", create)


def open_stores(source: StoreSettings, output: StoreSettings) -> tuple[Store, Store]:
    """Return the store of sources and that of outputs: one client if their settings agree."""
    source_store = Store(source)
    return source_store, source_store if output == source else Store(output)
