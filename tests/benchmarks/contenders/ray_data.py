"""Ray Data: read → map (fetch, decode) → map_batches (an actor with the model) → map (encode, put).

As its guides on batch inference and checkpoints have it: small blocks, so that stages overlap; a
pool of actors of fixed size; done rows known by their id. Rows count as done when their block is
written, so the last stage writes what it stored as Parquet. Stages that ask for equal resources
would be fused into one, and nothing would overlap; a GPU would keep them apart.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.fs
import ray
from ray.data.checkpoint import CheckpointConfig

from ace_tasks.store import split_uri
from tests.benchmarks.contenders.jpeg import decode, encode
from tests.benchmarks.contenders.workload import Workload

ROWS_A_BLOCK = 4


@functools.cache
def _s3() -> Any:
    """One client a worker process."""
    return boto3.client("s3")


def fetch(row: dict[str, Any]) -> dict[str, Any]:
    bucket, key = split_uri(row["image"])
    jpeg = _s3().get_object(Bucket=bucket, Key=key)["Body"].read()
    return {"id": row["id"], "prompt": row["prompt"], "seed": row["seed"], "picture": decode(jpeg)}


class Edit:
    """Holds the model; gets a block's rows at a time, and makes one picture after another."""

    def __init__(self, workload: Workload):
        from tests.benchmarks.contenders.model import Editor  # loads torch: in the actor only

        self._editor = Editor(workload)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        rows = zip(batch["picture"], batch["prompt"], batch["seed"], strict=True)
        made = [
            self._editor.edit(picture, str(prompt), int(seed)) for picture, prompt, seed in rows
        ]
        return {"id": batch["id"], "seed": batch["seed"], "picture": made}


def store(row: dict[str, Any], workload: Workload) -> dict[str, Any]:
    bucket, prefix = split_uri(workload.output)
    key = f"{prefix}/{row['id']}.jpg"
    jpeg = encode(row["picture"])
    _s3().put_object(Bucket=bucket, Key=key, Body=jpeg, ContentType="image/jpeg")
    workload.record("published", row["seed"])
    return {"id": row["id"], "uri": f"s3://{bucket}/{key}"}


def run(workload: Workload) -> None:
    ray.init("local", include_dashboard=False, log_to_driver=False)  # whatever else runs here
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    scratch = Path(workload.scratch)
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(scratch / "checkpoint"),
        delete_checkpoint_on_success=False,
    )
    endpoint = _s3().meta.endpoint_url
    (
        ray.data.read_json(
            workload.catalog.removeprefix("s3://"),
            filesystem=pyarrow.fs.S3FileSystem(endpoint_override=endpoint),
        )
        .repartition(target_num_rows_per_block=ROWS_A_BLOCK)
        .map(fetch, num_cpus=0.5)
        .map_batches(
            Edit,
            batch_size=ROWS_A_BLOCK,
            compute=ray.data.ActorPoolStrategy(size=workload.replicas),
            fn_constructor_args=(workload,),
        )
        .map(store, fn_args=(workload,), num_cpus=0.5)
        .write_parquet(str(scratch / "results"))
    )
    ray.shutdown()
