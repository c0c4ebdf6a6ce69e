"""Run a recipe's stages on Ray.

The VAE is trained by one worker, latents are made on every core, and the denoiser is trained by
the given number of workers. Each of these takes its share of a step's batch (`Batches`), DDP
averages their gradients, and the first worker writes checkpoints and metrics. If a worker dies, Ray
starts all of them again from the last checkpoint. An interrupted run continues from it as well, on
any machine (`keeping`).

The work folder is on this machine, or on a file system that all machines of a cluster share.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import ray
import ray.train
import torch
from pydantic import Field, model_validator
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device, prepare_model

from ace_tasks.errors import AceError, TrainingFailed
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import Frozen
from ace_tasks.training import latents, vae
from ace_tasks.training.keeping import Stage, TrainingFiles
from ace_tasks.training.loop import OnLog
from ace_tasks.training.recipe import Recipe
from ace_tasks.training.stages import (
    LATENTS,
    TrainingProcess,
    Until,
    encode_chunk,
    train_denoiser,
    train_vae,
)
from ace_tasks.training.start import Start

_TICK_S = 1


class FitSettings(Frozen):
    """One stage of a training, and the workers and folders for it."""

    recipe: Recipe
    stage: Stage
    work: Path = Field(description="Scratch folder on the workers' machines, with the latents.")
    uri: str | None = Field(None, description="s3:// prefix for checkpoints. Empty: scratch only.")
    store: StoreSettings = StoreSettings()
    photos: Path | None = Field(None, description="Photographs for the VAE.")
    workers: int = Field(1, ge=1)
    gpu: bool = False
    threads: int = Field(1, ge=1, description="CPU threads of a worker.")
    stop_after_s: float | None = None
    max_failures: int = Field(3, ge=0, description="How often failed workers are started again.")

    @model_validator(mode="after")
    def _one_for_the_vae(self) -> Self:
        if self.stage == "vae" and self.workers > 1:
            raise ValueError(f"workers: accepted: one worker for the VAE; given {self.workers}")
        return self

    @property
    def kept(self) -> TrainingFiles:
        return TrainingFiles(self.work, self.uri, self.store)


def fit(settings: FitSettings) -> bool:
    """Run one stage and return whether it reached its last step.

    Raises TrainingFailed, or the error of ours that a worker met. Call it outside the main thread,
    in which Ray Train would take over Ctrl-C for good.
    """
    resources = {"GPU": 1} if settings.gpu else {"CPU": settings.threads}
    logs = (settings.work / "ray").resolve()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"settings": settings.model_dump_json()},
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=settings.gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"{settings.recipe.name}-{settings.stage}-{time.time_ns()}",
            storage_path=str(logs),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        return bool(trainer.fit().return_value)
    except TrainingFailedError as error:
        raise _reason(error) from None
    finally:
        shutil.rmtree(logs, ignore_errors=True)  # it holds only Ray's own files


def _reason(error: TrainingFailedError) -> AceError:
    """Return the error that a worker met if it is one of ours, else one with its last line."""
    met = list(getattr(error, "worker_failures", {}).values()) or [error]
    for each in met:
        cause: BaseException | None = each
        while cause is not None:
            if isinstance(cause, AceError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    lines = str(met[0]).strip().splitlines() or [type(met[0]).__name__]
    return TrainingFailed(f"a worker failed: {lines[-1][:500]}")


def encode(
    recipe: Recipe,
    work: Path,
    until: Until = lambda: False,
    sources: StoreSettings | None = None,
    *,
    gpu: bool = False,
) -> bool:
    """Make the missing latents, one chunk on each core, and return whether all are there.

    A variant with frozen encoders is too large for that, so with `gpu` one chunk is made on each
    GPU. When `until` returns True, the function waits for the chunks that have been started.
    """
    kind = "GPU" if gpu and recipe.start_from and not Start.read(work).learn_text else "CPU"
    how: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(kind == "GPU")}
    one = ray.remote(**how)(encode_chunk)
    device = "cuda" if kind == "GPU" else "cpu"
    to_do = latents.missing(work / LATENTS, recipe.data)
    running: list[Any] = []
    at_once = max(1, int(ray.cluster_resources().get(kind, 0)))  # one that waits brings a node
    while (to_do and not until()) or running:
        while to_do and len(running) < at_once and not until():
            running.append(one.remote(recipe, work, to_do.pop(0), sources, device))
        ended, running = ray.wait(running, timeout=_TICK_S)
        ray.get(ended)
    return not latents.missing(work / LATENTS, recipe.data)


def _work(config: dict[str, Any]) -> bool:
    settings = FitSettings.model_validate_json(config["settings"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(settings.threads)
    device = str(get_device())
    ends_at = time.monotonic() + settings.stop_after_s if settings.stop_after_s else None

    def until() -> bool:
        return ends_at is not None and time.monotonic() > ends_at

    with _kept(settings, main=rank == 0) as on_log:
        if settings.stage == "vae":
            photos = vae.load_photos(settings.photos) if settings.photos else []
            args = settings.recipe, settings.work, photos, on_log, until
            return train_vae(*args, device=device)
        if workers == 1:
            worker = TrainingProcess(device=device)
        else:
            until = _together(until, device)
            worker = TrainingProcess(rank, workers, device, prepare_model, _first_ones)
        return train_denoiser(settings.recipe, settings.work, on_log, until, worker)


def _together(until: Until, device: str) -> Until:
    """Return an `until` that is True for all workers at the same step, once it is for one."""

    def agreed() -> bool:
        stop = torch.tensor(float(until()), device=device)
        torch.distributed.all_reduce(stop, op=torch.distributed.ReduceOp.MAX)
        return bool(stop.item())

    return agreed


def _first_ones(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the first worker's state to all, because others may have an older one or none."""
    box = [state]
    torch.distributed.broadcast_object_list(box)
    return box[0]


@contextmanager
def _kept(settings: FitSettings, *, main: bool) -> Iterator[OnLog]:
    """Fetch the stage's checkpoint and metrics, yield a function that logs, and upload both to S3.

    They are uploaded after each new checkpoint and at the end.
    """
    kept, stage = settings.kept, settings.stage
    settings.work.mkdir(parents=True, exist_ok=True)
    if main:
        kept.fetch(stage)
    checkpoint, metrics = kept.checkpoint(stage), kept.metrics(stage)
    sent = _written_at(checkpoint)

    def send() -> None:
        nonlocal sent
        if main and (now := _written_at(checkpoint)) != sent:
            kept.send(stage)
            sent = now

    def on_log(step: int, numbers: dict[str, float]) -> None:
        line = {"step": step, **{k: round(v, 6) for k, v in numbers.items()}}
        with metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        send()

    yield on_log
    send()


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
