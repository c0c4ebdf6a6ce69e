"""A training's files: on this machine, and on S3, so that another machine can go on.

    <uri>/vae.pt, denoiser.pt          the stages' checkpoints
    <uri>/vae.pt.step, denoiser.pt.step   how far they are; written after them
    <uri>/metrics-<stage>.jsonl        every logged step
    <uri>/vae/                         the finished VAE, its config last

Of two checkpoints the one that is further counts. Latents are made again: that costs less than
their transfer.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from ace_tasks.errors import NotFound
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.training.loop import saved_step
from ace_tasks.training.stages import CHECKPOINT, VAE, VAE_CHECKPOINT

Stage = Literal["vae", "denoise"]
_CHECKPOINTS: dict[Stage, str] = {"vae": VAE_CHECKPOINT, "denoise": CHECKPOINT}
_LAST = "config.json"
_BYTES = "application/octet-stream"


@dataclass(frozen=True)
class TrainingFiles:
    """The files of one training. `uri` None: they stay on this machine."""

    work: Path
    uri: str | None = None
    settings: StoreSettings = field(default_factory=StoreSettings)

    @cached_property
    def store(self) -> Store:
        return Store(self.settings)

    def checkpoint(self, stage: Stage) -> Path:
        return self.work / _CHECKPOINTS[stage]

    def metrics(self, stage: Stage) -> Path:
        return self.work / f"metrics-{stage}.jsonl"

    # ------------------------------------------------------------ checkpoints

    def steps_done(self, stage: Stage) -> int:
        """How far the stage is, here or on S3."""
        return max(saved_step(self.checkpoint(stage)), self._step_there(stage))

    def fetch(self, stage: Stage) -> None:
        """Take the checkpoint and metrics of S3 if they are further than this machine's."""
        if self._step_there(stage) <= saved_step(self.checkpoint(stage)):
            return
        self.work.mkdir(parents=True, exist_ok=True)
        for path in (self.metrics(stage), self.checkpoint(stage)):
            coming = path.with_name(f"{path.name}.fetched")
            self.store.download(self._uri(path.name), coming)
            coming.rename(path)

    def send(self, stage: Stage) -> None:
        """Put this machine's checkpoint and metrics to S3."""
        checkpoint = self.checkpoint(stage)
        if self.uri is None:
            return
        step = saved_step(checkpoint)
        for path in (self.metrics(stage), checkpoint):
            if path.exists():
                self.store.upload(path, self._uri(path.name), _BYTES)
        # Last: a checkpoint that is further than it says costs a few steps, not the training.
        self.store.put(self._uri(f"{checkpoint.name}.step"), str(step).encode(), "text/plain")

    def _step_there(self, stage: Stage) -> int:
        if self.uri is None:
            return 0
        try:
            return int(self.store.get(self._uri(f"{_CHECKPOINTS[stage]}.step")))
        except NotFound:
            return 0

    # ------------------------------------------------------------ the finished VAE

    def has_vae(self) -> bool:
        """Whether the VAE is finished. Afterwards it lies here and on S3, wherever it was made."""
        folder = self.work / VAE
        if self.uri is None:
            return folder.exists()
        names = [each.uri for each in self.store.list(self._uri(f"{VAE}/"))]
        there = self._uri(f"{VAE}/{_LAST}") in names
        if folder.exists():
            if not there:
                send_folder(self.store, folder, self._uri(VAE), _LAST)
            return True
        if not there:
            return False
        coming = self.work / f"{VAE}.fetched"
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir(parents=True)
        for uri in names:
            self.store.download(uri, coming / uri.rpartition("/")[2])
        coming.rename(folder)
        return True

    def _uri(self, key: str) -> str:
        assert self.uri is not None
        return join_uri(self.uri, key)


def send_folder(store: Store, folder: Path, uri: str, last: str) -> None:
    """Put a folder to S3, one file last: until it is there, the folder is not."""
    store.delete(join_uri(uri, last))
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        store.upload(folder / name, join_uri(uri, name), _BYTES)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Every logged step so far, in order. A training that went back to a checkpoint wrote some
    steps twice: what came after the step it went back to is no part of it any more.
    """
    if not path.exists():
        return []
    steps: list[dict[str, float]] = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # a line may be half-written
            numbers = json.loads(line)
            while steps and steps[-1]["step"] >= numbers["step"]:
                steps.pop()
            steps.append(numbers)
    return steps
