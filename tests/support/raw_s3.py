"""S3 as others use it: calls that our store does not make, and a store whose pages are short."""

from __future__ import annotations

from typing import Any
from unittest import mock

import boto3

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, split_uri


def keep_versions(bucket: str, profile: str | None = None) -> None:
    """Have a bucket keep what is replaced or deleted."""
    boto3.session.Session(profile_name=profile).client("s3").put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )


def count_versions(uri: str) -> int:
    """Return how many versions of an object there are, delete markers included."""
    bucket, key = split_uri(uri)
    page = boto3.client("s3").list_object_versions(Bucket=bucket, Prefix=key)
    found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
    return sum(each["Key"] == key for each in found)


def put_without_checksum(uri: str, data: bytes) -> None:
    """Write an object of which the store knows no SHA-256."""
    bucket, key = split_uri(uri)
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)


def upload_in_parts(uri: str, data: bytes) -> None:
    """Write an object as the tools of shops upload what is large."""
    client = boto3.client("s3")
    bucket, key = split_uri(uri)
    place = {"Bucket": bucket, "Key": key}
    upload = client.create_multipart_upload(**place)["UploadId"]
    part = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=data)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)


def store_with_short_pages(settings: StoreSettings | None = None) -> Store:
    """Return a store that asks for two objects a page; S3's own pages hold a thousand."""
    make = boto3.session.Session.client

    def client(session: Any, *arguments: Any, **options: Any) -> Any:
        made = make(session, *arguments, **options)
        for operation in ("ListObjectsV2", "ListObjectVersions"):
            made.meta.events.register(
                f"provide-client-params.s3.{operation}",
                lambda params, **_: {**params, "MaxKeys": 2},
            )
        return made

    with mock.patch.object(boto3.session.Session, "client", client):
        return Store(settings or StoreSettings())
