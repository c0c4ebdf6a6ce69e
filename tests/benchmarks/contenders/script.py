"""The plain script: a loop over the rows. It leaves out what is in its output already."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import boto3

from ace_tasks.store import split_uri
from tests.benchmarks.contenders.jpeg import decode, encode
from tests.benchmarks.contenders.model import Editor
from tests.benchmarks.contenders.workload import Workload


def run(workload: Workload) -> None:
    s3 = boto3.client("s3")

    def get(uri: str) -> bytes:
        bucket, key = split_uri(uri)
        return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())

    bucket, prefix = split_uri(workload.output)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    done = {PurePosixPath(each["Key"]).stem for page in pages for each in page.get("Contents", ())}
    editor = Editor(workload)
    for row in map(json.loads, get(workload.catalog).splitlines()):
        if row["id"] in done:
            continue
        if not workload.keep_embeddings:
            editor.forget_embeddings()
        picture = editor.edit(decode(get(row["image"])), row["prompt"], row["seed"])
        s3.put_object(
            Bucket=bucket,
            Key=f"{prefix}/{row['id']}.jpg",
            Body=encode(picture),
            ContentType="image/jpeg",
        )
        workload.record("published", row["seed"])
