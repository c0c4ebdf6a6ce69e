"""Prefect with a task run for every row, on Ray by `RayTaskRunner` of prefect-ray.

As Prefect's guides have it: the task is retried, and its result, kept by its inputs, lets a second
run leave it out. The model lives in Ray's worker process, which is one because Ray has one CPU.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any

import boto3
from prefect import flow, task, unmapped
from prefect.cache_policies import INPUTS
from prefect.futures import wait
from prefect_ray import RayTaskRunner

from ace_tasks.store import split_uri
from tests.benchmarks.contenders.jpeg import decode, encode
from tests.benchmarks.contenders.workload import Workload

if TYPE_CHECKING:
    from tests.benchmarks.contenders.model import Editor


@functools.cache
def _s3() -> Any:
    return boto3.client("s3")


@functools.cache
def _editor(workload: Workload) -> Editor:
    from tests.benchmarks.contenders.model import Editor  # loads torch: in Ray's worker only

    return Editor(workload)


@task(retries=2, persist_result=True, cache_policy=INPUTS - "workload")  # type: ignore[operator]
def edit(row: dict[str, Any], workload: Workload) -> str:
    source_bucket, source_key = split_uri(row["image"])
    jpeg = _s3().get_object(Bucket=source_bucket, Key=source_key)["Body"].read()
    picture = _editor(workload).edit(decode(jpeg), row["prompt"], row["seed"])
    bucket, prefix = split_uri(workload.output)
    key = f"{prefix}/{row['id']}.jpg"
    _s3().put_object(Bucket=bucket, Key=key, Body=encode(picture), ContentType="image/jpeg")
    workload.record("published", row["seed"])
    return f"s3://{bucket}/{key}"


@flow
def edit_all(workload: Workload) -> int:
    """Edit all rows. Return how many have no picture."""
    bucket, key = split_uri(workload.catalog)
    catalog = _s3().get_object(Bucket=bucket, Key=key)["Body"].read()
    futures = edit.map([json.loads(line) for line in catalog.splitlines()], unmapped(workload))
    done, waiting = wait(futures)
    return len(waiting) + sum(not each.state.is_completed() for each in done)


def run(workload: Workload) -> None:
    options = {"num_cpus": workload.replicas, "include_dashboard": False, "log_to_driver": False}
    runner: Any = RayTaskRunner("local", init_kwargs=options)  # whatever else runs here
    if failed := edit_all.with_options(task_runner=runner)(workload):
        sys.exit(f"{failed} rows have no picture")
