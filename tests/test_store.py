"""Test the store against a real SeaweedFS. If these break, records overwrite each other, or a wrong
key looks like an outage and is retried for hours."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from ace_tasks.errors import (
    AceError,
    BucketMissing,
    CredentialsError,
    Forbidden,
    NotFound,
    PreconditionFailed,
    SettingsError,
    StoreUnavailable,
    TooLarge,
)
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri, open_stores, split_uri
from ace_tasks.store_check import check_output, check_purge
from ace_tasks.store_errors import translate
from infra.object_store import ObjectStore
from infra.store_keys import ensure_keys
from tests.support.faults import FaultyStore
from tests.support.naming_store import OF_PARTS, NamingStore
from tests.support.raw_s3 import store_with_short_pages


def test_bytes_come_back_with_identity(store: Store, prefix: str) -> None:
    uri = join_uri(prefix, "a/b.bin")
    etag = store.put(uri, b"hello", "application/octet-stream")
    info = store.head(uri)
    assert (info.size_bytes, info.etag) == (5, etag)
    assert info.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert store.get(uri) == store.get(uri, if_match=etag) == b"hello"


def test_a_changed_object_is_not_fetched_by_its_old_etag(store: Store, prefix: str) -> None:
    uri = join_uri(prefix, "a")
    old = store.put(uri, b"1", "text/plain")
    store.put(uri, b"2", "text/plain")
    with pytest.raises(PreconditionFailed):
        store.get(uri, if_match=old)


def test_of_many_writers_of_one_key_exactly_one_wins(store: Store, prefix: str) -> None:
    uri = join_uri(prefix, "marker")
    wins: list[int] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        if store.put_if_absent(uri, str(number).encode(), "text/plain"):
            wins.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.get(uri) == str(wins[0]).encode()


def test_what_is_missing_says_so(store: Store, prefix: str) -> None:
    with pytest.raises(NotFound, match="no such object"):
        store.get(join_uri(prefix, "nothing"))
    with pytest.raises(NotFound):
        store.head(join_uri(prefix, "nothing"))
    with pytest.raises(BucketMissing, match="'no-such-bucket'"):
        store.get("s3://no-such-bucket/key")


def test_a_large_object_is_refused_before_it_is_read(store: Store, prefix: str) -> None:
    uri = join_uri(prefix, "large")
    store.put(uri, b"x" * 1000, "text/plain")
    with pytest.raises(TooLarge, match="at most 999 bytes; given 1000"):
        store.get(uri, max_bytes=999)


def test_listing_is_whole_and_in_key_order(store: Store, prefix: str) -> None:
    for name in ("b", "a/2", "a/1"):
        store.put(join_uri(prefix, name), name.encode(), "text/plain")
    listed = [each.uri.removeprefix(f"{prefix}/") for each in store.list(f"{prefix}/")]
    assert listed == ["a/1", "a/2", "b"]


def test_a_listing_goes_on_after_a_key_and_tells_times_as_heads_do(
    store: Store, prefix: str
) -> None:
    uris = [join_uri(prefix, name) for name in ("a", "b+c", "d e", "é")]
    for uri in uris:
        store.put(uri, b"x", "text/plain")
    listed = list(store.list(f"{prefix}/", after=uris[0]))
    assert [each.uri for each in listed] == uris[1:]
    for each in listed:
        assert each.modified
        assert each.modified.replace(microsecond=0) == store.head(each.uri).modified


def test_a_listing_reads_as_boto3_reads_it(
    store: Store, prefix: str, object_store: ObjectStore
) -> None:
    """The objects have odd names, and each has what another kind of store adds to it."""
    names = [
        "a b",
        "a+b%20c",
        "amp&<quote>'\"",
        "Zo\u0308e",
        "\u96ea/\U0001f600",
        "~!@$^*()_=:;,?#[]{}|",
    ]
    for name in names:
        store.put(join_uri(prefix, name), name.encode(), "text/plain")
    naming = NamingStore(object_store.endpoint_url, split_uri(prefix)[0])
    naming.named[split_uri(join_uri(prefix, "a b"))[1]] = OF_PARTS
    try:
        through = Store(StoreSettings(endpoint_url=naming.endpoint_url))
        found = [*through.list(join_uri(prefix, ""))]
        bucket, key = split_uri(join_uri(prefix, ""))
        client = boto3.client("s3", endpoint_url=naming.endpoint_url)
        page = client.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]
    finally:
        naming.stop()
    assert [each.uri for each in found] == [f"s3://{bucket}/{each['Key']}" for each in page]
    assert len(found) == len(names)
    for each, expected in zip(found, page, strict=True):
        assert each.etag == expected["ETag"].strip('"')
        assert each.size_bytes == expected["Size"]
        assert each.modified == expected["LastModified"]
        assert list(each.checksums) == expected["ChecksumAlgorithm"]
        assert each.composite is (expected["ChecksumType"] == "COMPOSITE")
    assert [each.composite for each in found].count(True) == 1


def test_a_listing_of_many_pages_is_whole(store: Store, prefix: str) -> None:
    names = [f"{n}" for n in range(5)]
    for name in names:
        store.put(join_uri(prefix, name), b"x", "text/plain")
    store = store_with_short_pages()
    listed = [each.uri.removeprefix(f"{prefix}/") for each in store.list(f"{prefix}/")]
    assert listed == names


def test_files_stream_up_and_down(store: Store, prefix: str, tmp_path: Path) -> None:
    source, target = tmp_path / "up", tmp_path / "down"
    source.write_bytes(b"z" * 9_000_000)  # more than one part
    store.upload(source, join_uri(prefix, "file"), "application/octet-stream")
    store.download(join_uri(prefix, "file"), target)
    assert target.read_bytes() == source.read_bytes()
    with pytest.raises(NotFound):
        store.download(join_uri(prefix, "other"), target)


def test_whoever_has_read_enough_leaves_the_store_its_patience(
    object_store: ObjectStore, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that ends with its first find was taken for one that failed: from then on a store
    that was away for a moment ended the run.
    """
    proxy = FaultyStore(object_store.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
    store = Store(StoreSettings(max_attempts=1, patience_s=60))
    uri = join_uri(prefix, "a")
    store.put(uri, b"a", "text/plain")

    def reads() -> Iterator[bytes]:
        with store.in_parallel(2) as pool:
            yield from pool.map(store.get, [uri] * 4)

    found = reads()
    try:
        assert next(found) == b"a"
        found.close()
        proxy.times(1, "503")
        assert store.get(uri) == b"a"
    finally:
        proxy.stop()


def test_no_write_over_tls_has_a_trailer(
    object_store: ObjectStore, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2 and others refuse a checksum that comes behind the bytes, which boto3 sends over TLS only.
    Ours comes before them, so a store can also tell it with the object.
    """
    keys = ensure_keys(tmp_path / "keys", "127.0.0.1")
    proxy = FaultyStore(object_store.endpoint_url, keys)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(keys / "certificate.pem"))
    monkeypatch.setattr("ace_tasks.store._PART_BYTES", 5 * 2**20)  # S3 takes none that are smaller
    file = tmp_path / "file"
    store = Store(StoreSettings())
    try:
        check_output(store, prefix)
        store.put(join_uri(prefix, "small"), b"small", "text/plain")
        assert store.put_if_absent(join_uri(prefix, "once"), b"once", "text/plain")
        for size, name in ((1000, "one-part"), (12_000_000, "three-parts")):
            file.write_bytes(b"x" * size)
            store.upload(file, join_uri(prefix, name), "application/octet-stream")
            assert store.get(join_uri(prefix, name)) == file.read_bytes()
        check_purge(store, prefix)
        store.delete(join_uri(prefix, "small"))
    finally:
        proxy.stop()
    for method, headers in proxy.heard:
        assert "x-amz-trailer" not in headers, (method, headers)
        assert "aws-chunked" not in headers.get("content-encoding", ""), (method, headers)
    written = [headers for method, headers in proxy.heard if method == "PUT"]
    assert len(written) >= 8
    assert all("x-amz-checksum-sha256" in headers for headers in written)


def test_an_upload_that_fails_leaves_no_parts(
    object_store: ObjectStore,
    store: Store,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are in no listing of objects, and paid for."""
    proxy = FaultyStore(object_store.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
    monkeypatch.setattr("ace_tasks.store._PART_BYTES", 5 * 2**20)
    file = tmp_path / "file"
    file.write_bytes(b"x" * 12_000_000)
    proxy.fault = lambda method, path: "500" if "partNumber=2" in path else None
    uri = join_uri(prefix, "cut")
    try:
        with pytest.raises(StoreUnavailable):
            Store(StoreSettings(max_attempts=1, patience_s=0)).upload(file, uri, "text/plain")
    finally:
        proxy.stop()
    client = boto3.client("s3", endpoint_url=object_store.endpoint_url)
    bucket, key = split_uri(uri)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket, Prefix=key)
    assert list(store.list(uri)) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_SECRET_ACCESS_KEY", "wrong-secret"), ("AWS_ACCESS_KEY_ID", "nobody")],
)
def test_wrong_keys_are_fatal_and_never_quoted(
    object_store: ObjectStore,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CredentialsError) as caught:
        Store(StoreSettings()).get(join_uri(prefix, "a"))
    secrets = [value, *object_store.credentials.values()]
    assert not any(secret in str(caught.value) for secret in secrets)


def test_an_unknown_profile_is_a_credentials_error(object_store: ObjectStore) -> None:
    with pytest.raises(CredentialsError):
        Store(StoreSettings(profile="no-such-profile"))


@pytest.mark.parametrize("uri", ["s3://My Bucket/k", "s3://bucket"], ids=["bucket", "no-key"])
def test_an_address_that_none_can_have_is_not_taken_for_bad_credentials(
    store: Store, uri: str
) -> None:
    """They would end a whole run."""
    with pytest.raises(NotFound, match="no valid S3 address"):
        store.get(uri)


def test_an_endpoint_that_is_no_url_is_a_setting(object_store: ObjectStore) -> None:
    with pytest.raises(SettingsError, match="object store: Invalid endpoint: nonsense"):
        Store(StoreSettings(endpoint_url="nonsense"))


def test_a_store_that_is_away_is_unavailable() -> None:
    settings = StoreSettings(endpoint_url="http://127.0.0.1:9", max_attempts=1, patience_s=0)
    with pytest.raises(StoreUnavailable):
        Store(settings).get("s3://bucket/key")


def test_one_client_when_source_and_output_agree(object_store: ObjectStore) -> None:
    source, output = open_stores(StoreSettings(), StoreSettings())
    assert source is output
    source, output = open_stores(StoreSettings(), StoreSettings(read_timeout_s=1))
    assert source is not output


def test_a_presigned_link_opens_without_credentials(store: Store, prefix: str) -> None:
    import urllib.request

    uri = join_uri(prefix, "page.html")
    store.put(uri, b"<p>hello", "text/html")
    link = store.presign(uri, 60)
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link  # else new buckets of us-east-1 refuse it
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"<p>hello"
        assert answer.headers["Content-Type"].startswith("text/html")


def test_local_files_answer_like_objects(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello")
    assert store.get(str(path)) == b"hello"
    assert store.head(str(path)).sha256 == hashlib.sha256(b"hello").hexdigest()
    with pytest.raises(NotFound):
        store.get(str(tmp_path / "b.bin"))
    with pytest.raises(NotFound):
        store.get(str(tmp_path))
    with pytest.raises(TooLarge):
        store.get(str(path), max_bytes=4)


def _client_error(code: str, status: int) -> ClientError:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")  # type: ignore[arg-type]


FOREIGN: dict[str, tuple[Exception, type[AceError]]] = {
    "no key": (_client_error("NoSuchKey", 404), NotFound),
    "404": (_client_error("404", 404), NotFound),
    "no bucket": (_client_error("NoSuchBucket", 404), BucketMissing),
    "access denied": (_client_error("AccessDenied", 403), Forbidden),
    "403": (_client_error("403", 403), Forbidden),
    "expired token": (_client_error("ExpiredToken", 400), CredentialsError),
    "wrong signature": (_client_error("SignatureDoesNotMatch", 403), CredentialsError),
    "bad name": (_client_error("InvalidBucketName", 400), Forbidden),
    "precondition": (_client_error("PreconditionFailed", 412), PreconditionFailed),
    "request timeout": (_client_error("RequestTimeout", 408), StoreUnavailable),
    "a race of writers": (_client_error("ConditionalRequestConflict", 409), StoreUnavailable),
    "too many requests": (_client_error("TooManyRequests", 429), StoreUnavailable),
    "slow down": (_client_error("SlowDown", 503), StoreUnavailable),
    "internal error": (_client_error("InternalError", 500), StoreUnavailable),
    "not implemented": (_client_error("NotImplemented", 501), Forbidden),
    "no credentials": (NoCredentialsError(), CredentialsError),
    "no connection": (EndpointConnectionError(endpoint_url="http://x"), StoreUnavailable),
}


@pytest.mark.parametrize(("error", "expected"), FOREIGN.values(), ids=FOREIGN)
def test_every_foreign_error_becomes_ours(error: Exception, expected: type[AceError]) -> None:
    assert type(translate(error, "s3://bucket/key")) is expected


def test_uris_split_and_join() -> None:
    assert split_uri("s3://bucket/a/b") == ("bucket", "a/b")
    assert split_uri("s3://bucket") == ("bucket", "")
    assert join_uri("s3://bucket/a/", "b") == "s3://bucket/a/b"
