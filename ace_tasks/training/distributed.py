"""A recipe's stages on Ray Train: as many workers as told, one model, checkpoints on S3.

Each worker takes its share of a step's batch (`Batches`), DDP averages their gradients, and the
first of them writes checkpoints and metrics. A worker that dies makes Ray start all of them again,
from the last checkpoint; a run that is cut goes on from it, too, on whatever machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
from pydantic import BaseModel, ConfigDict, Field
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from ace_tasks.errors import NotFound
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.training.recipe import Recipe, train_denoiser, train_vae

log = logging.getLogger(__name__)

METRICS = "metrics-{stage}.jsonl"
_DONE = "done"
_CHECKPOINTS = {"vae": "vae.pt", "denoise": "denoiser.pt"}


class FitSettings(BaseModel):
    """Where one stage of a training runs, and where it is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    stage: str
    work: Path = Field(description="Scratch of the workers' machines; latents lie there.")
    uri: str | None = Field(None, description="s3:// prefix for checkpoints; empty: scratch only.")
    store: StoreSettings = StoreSettings()
    workers: int = Field(1, ge=1)
    gpu: bool = False
    threads: int = Field(1, ge=1, description="CPU threads of a worker.")
    stop_after_s: float | None = None
    max_failures: int = 3


def fit(settings: FitSettings, photos: list[np.ndarray]) -> bool:
    """Run one stage; True when it came to its last step. Raises what a worker raised for good."""
    resources = {"GPU": 1} if settings.gpu else {"CPU": settings.threads}
    trainer = TorchTrainer(
        _work,
        train_loop_config={"settings": settings.model_dump_json(), "photos": photos},
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=settings.gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"{settings.recipe.name}-{settings.stage}-{time.time_ns()}",
            storage_path=str((settings.work / "ray").resolve()),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    result = trainer.fit()
    if result.error:
        raise result.error
    return bool(result.metrics and result.metrics[_DONE])


def read_metrics(work: Path, stage: str) -> list[dict[str, float]]:
    """Every logged step so far, in order; a training that went back to a checkpoint wrote some
    steps twice, and the last counts.
    """
    path = work / METRICS.format(stage=stage)
    if not path.exists():
        return []
    steps = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # the last line may be half-written
            numbers = json.loads(line)
            steps[numbers["step"]] = numbers
    return [steps[step] for step in sorted(steps)]


# ---------------------------------------------------------------- inside a worker


def _work(config: dict[str, Any]) -> None:
    import torch

    settings = FitSettings.model_validate_json(config["settings"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(settings.threads)
    ends_at = time.monotonic() + settings.stop_after_s if settings.stop_after_s else None

    def until() -> bool:
        return ends_at is not None and time.monotonic() > ends_at

    settings.work.mkdir(parents=True, exist_ok=True)
    with _kept(settings, rank) as on_log:
        if settings.stage == "vae":
            done = train_vae(settings.recipe, settings.work, config["photos"], on_log, until)
        else:
            done = train_denoiser(
                settings.recipe,
                settings.work,
                on_log,
                until if workers == 1 else _together(until),
                rank=rank,
                workers=workers,
                wrap=prepare_model if workers > 1 else lambda model: model,
            )
    # Ray keeps the metrics of checkpoints only. Ours are elsewhere; this one is empty.
    with tempfile.TemporaryDirectory() as empty:
        ray.train.report({_DONE: done}, checkpoint=Checkpoint.from_directory(empty))


def _together(until: Callable[[], bool]) -> Callable[[], bool]:
    """Workers stop at the same step: when any of them would."""
    import torch
    import torch.distributed

    def agreed() -> bool:
        word = torch.tensor(float(until()))
        torch.distributed.all_reduce(word, op=torch.distributed.ReduceOp.MAX)
        return bool(word.item())

    return agreed


@contextlib.contextmanager
def _kept(settings: FitSettings, rank: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Fetch the stage's checkpoint and metrics, give a log to write to, and put both back: on the
    way, whenever the checkpoint is a new one, and in the end.
    """
    names = (_CHECKPOINTS[settings.stage], METRICS.format(stage=settings.stage))
    store = Store(settings.store) if settings.uri and rank == 0 else None
    if store and settings.uri:
        for name in names:
            _fetch(store, join_uri(settings.uri, name), settings.work / name)
    checkpoint = settings.work / names[0]
    sent = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    def send() -> None:
        nonlocal sent
        if not (store and settings.uri and checkpoint.exists()):
            return
        if (written := checkpoint.stat().st_mtime_ns) != sent:
            for name in names:
                uri = join_uri(settings.uri, name)
                store.upload(settings.work / name, uri, "application/octet-stream")
            sent = written

    def on_log(step: int, numbers: dict[str, float]) -> None:
        with (settings.work / names[1]).open("a") as file:
            line = {"step": step, **{k: round(v, 6) for k, v in numbers.items()}}
            file.write(json.dumps(line) + "\n")
        send()

    yield on_log
    send()


def _fetch(store: Store, uri: str, to: Path) -> None:
    """What lies here already is this machine's own, and as new."""
    if to.exists():
        return
    coming = to.with_name(f"{to.name}.fetched")
    try:
        store.download(uri, coming)
    except NotFound:
        return
    coming.rename(to)
