"""Objects on S3, and local files where a catalog is local. The one room that knows boto3.

A `Store` is one client with one identity; make one per process and role and share it (boto3
clients are thread-safe, and reuse their connections). Every foreign exception is translated
here: what concerns one object is a StoreError, what concerns all of them a FatalError.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from ace_tasks.errors import (
    AceError,
    BucketMissing,
    CredentialsError,
    Forbidden,
    NoConditionalWrites,
    NotFound,
    OutputRefused,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    TooLarge,
)
from ace_tasks.settings import StoreSettings

MAX_PRESIGN_S = 7 * 24 * 3600  # a limit of SigV4
_CONFLICT_TRIES = 5

_CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store lists it. `sha256` is hex, where the store keeps one."""

    uri: str
    size_bytes: int
    etag: str
    sha256: str | None = None
    modified: datetime | None = None


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def split_uri(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/key` → ("bucket", "some/key"); the key may be empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def join_uri(prefix: str, key: str) -> str:
    return f"{prefix.rstrip('/')}/{key}"


def translate(error: Exception, uri: str) -> AceError:
    """A botocore exception → ours. The message never quotes headers or credentials."""
    if isinstance(error, _CREDENTIAL_ERRORS):
        return CredentialsError(f"{uri}: no usable AWS credentials ({type(error).__name__})")
    if not isinstance(error, ClientError):
        return StoreUnavailable(uri, f"{type(error).__name__} after retries")
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _CREDENTIAL_CODES:
        return CredentialsError(f"{uri}: the store refuses our credentials ({code})")
    if code == "NoSuchBucket":
        return BucketMissing(uri, f"bucket {split_uri(uri)[0]!r} does not exist")
    if code in {"NoSuchKey", "404", "NotFound"} or status == 404:
        return NotFound(uri, "no such object")
    if status == 412:
        return PreconditionFailed(uri, "the object is not the expected one (HTTP 412)")
    if status == 403:
        return Forbidden(uri, "access denied (HTTP 403)")
    return StoreUnavailable(uri, f"HTTP {status} {code}".rstrip())


class Store:
    """S3 through one identity; reads local paths as well, so that local catalogs work."""

    def __init__(self, settings: StoreSettings):
        try:
            self._client: Any = boto3.session.Session(profile_name=settings.profile).client(
                "s3",
                endpoint_url=settings.endpoint_url,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": settings.max_attempts},
                    connect_timeout=settings.connect_timeout_s,
                    read_timeout=settings.read_timeout_s,
                    max_pool_connections=settings.max_connections,
                    tcp_keepalive=True,
                ),
            )
        except BotoCoreError as error:
            raise translate(error, "s3") from None

    @contextlib.contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, Boto3Error, ClientError) as error:
            # `from None`: botocore's text may hold request details.
            raise translate(error, uri) from None

    # ------------------------------------------------------------ reading

    def head(self, uri: str) -> ObjectInfo:
        """Raises NotFound, Forbidden, StoreUnavailable. Hashes a local file."""
        if not is_s3(uri):
            return _head_local(uri)
        bucket, key = split_uri(uri)
        with self._translated(uri):
            answer = self._client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
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
        """The whole object. `if_match`: the ETag it must still have.

        Raises NotFound, Forbidden, PreconditionFailed, TooLarge (before reading it) and
        StoreUnavailable.
        """
        if not is_s3(uri):
            return _get_local(uri, max_bytes)
        bucket, key = split_uri(uri)
        condition = {"IfMatch": f'"{if_match}"'} if if_match else {}
        with self._translated(uri):
            answer = self._client.get_object(Bucket=bucket, Key=key, **condition)
            with contextlib.closing(answer["Body"]) as body:
                _check_size(uri, answer["ContentLength"], max_bytes)
                return bytes(body.read())

    def download(self, uri: str, path: Path) -> None:
        """Stream an object into a file; memory stays flat whatever its size."""
        bucket, key = split_uri(uri)
        with self._translated(uri):
            self._client.download_file(bucket, key, str(path))

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """Every object under a prefix, in key order."""
        bucket, prefix = split_uri(prefix_uri)
        with self._translated(prefix_uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix
            )
            for page in pages:
                for each in page.get("Contents", ()):
                    yield ObjectInfo(
                        uri=f"s3://{bucket}/{each['Key']}",
                        size_bytes=each["Size"],
                        etag=each["ETag"].strip('"'),
                        modified=each["LastModified"],
                    )

    def presign(self, uri: str, expires_s: int = MAX_PRESIGN_S) -> str:
        """A link that opens the object without credentials until it expires."""
        bucket, key = split_uri(uri)
        with self._translated(uri):
            link = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s
            )
        return str(link)

    # ------------------------------------------------------------ writing

    def put(self, uri: str, data: bytes, content_type: str) -> str:
        """Write an object, whatever stood there; returns its ETag."""
        bucket, key = split_uri(uri)
        with self._translated(uri):
            answer = self._client.put_object(
                Bucket=bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                ChecksumAlgorithm="SHA256",
            )
        return str(answer["ETag"]).strip('"')

    def put_if_absent(self, uri: str, data: bytes, content_type: str) -> bool:
        """Write an object unless its key exists; True if this call wrote it.

        False can also mean that an earlier try of ours arrived and its answer was lost: read the
        object to know. Raises StoreUnavailable if writers keep colliding.
        """
        bucket, key = split_uri(uri)
        for _ in range(_CONFLICT_TRIES):
            try:
                self._client.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=data,
                    ContentType=content_type,
                    ChecksumAlgorithm="SHA256",
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 409:
                    continue  # a race between two writers: S3 asks to try again
                translated = translate(error, uri)
                if isinstance(translated, PreconditionFailed):
                    return False
                raise translated from None
            except BotoCoreError as error:
                raise translate(error, uri) from None
            return True
        raise StoreUnavailable(uri, f"{_CONFLICT_TRIES} conflicting writes in a row (HTTP 409)")

    def upload(self, path: Path, uri: str, content_type: str) -> None:
        """Stream a file into an object."""
        bucket, key = split_uri(uri)
        with self._translated(uri):
            self._client.upload_file(
                str(path),
                bucket,
                key,
                ExtraArgs={"ContentType": content_type, "ChecksumAlgorithm": "SHA256"},
            )

    def delete(self, uri: str) -> None:
        """Delete an object; no error if there is none."""
        bucket, key = split_uri(uri)
        with self._translated(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket; no error if it is ours already."""
        try:
            self._client.create_bucket(Bucket=bucket)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise translate(error, f"s3://{bucket}") from None
        except BotoCoreError as error:
            raise translate(error, f"s3://{bucket}") from None

    def check_output(self, prefix_uri: str, *, unguarded: bool = False) -> None:
        """Prove before any work that we can write here, and that If-None-Match is honoured.

        Raises OutputRefused, CredentialsError, StoreUnavailable; and NoConditionalWrites unless
        `unguarded`, which accepts that two runs of one catalog may publish an item twice.
        """
        probe = join_uri(prefix_uri, f".probe-{uuid.uuid4().hex}")
        try:
            self.put_if_absent(probe, b"first", "text/plain")
            guarded = not self.put_if_absent(probe, b"second", "text/plain")
            self.delete(probe)
        except (BucketMissing, NotFound, Forbidden) as error:
            raise OutputRefused(f"cannot write under {prefix_uri}: {error}") from None
        if not guarded and not unguarded:
            raise NoConditionalWrites(
                f"the store of {prefix_uri} ignores If-None-Match, so two runs could overwrite "
                f"each other's records; use a store that honours it, or allow unguarded writes"
            )


def _check_size(uri: str, size_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooLarge(uri, f"accepted: at most {max_bytes} bytes; given {size_bytes}")


@contextlib.contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NotFound(uri, "no such file") from None
    except PermissionError:
        raise Forbidden(uri, "the file may not be read") from None
    except (OSError, ValueError) as error:
        raise StoreError(uri, f"cannot be read ({type(error).__name__})") from None


def _head_local(uri: str) -> ObjectInfo:
    with _local_errors(uri), Path(uri).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return ObjectInfo(uri=uri, size_bytes=file.tell(), etag=digest, sha256=digest)


def _get_local(uri: str, max_bytes: int | None) -> bytes:
    with _local_errors(uri):
        _check_size(uri, Path(uri).stat().st_size, max_bytes)
        return Path(uri).read_bytes()


def open_stores(source: StoreSettings, output: StoreSettings) -> tuple[Store, Store]:
    """The store sources are read from and the one outputs go to: one client if they agree."""
    source_store = Store(source)
    return source_store, source_store if output == source else Store(output)
