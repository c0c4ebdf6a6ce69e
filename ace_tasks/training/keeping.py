"""Keep a training's files on this machine and on S3, so that another machine can continue.

    <uri>/vae.pt, denoiser.pt             the stages' checkpoints
    <uri>/vae.pt.step, denoiser.pt.step   their steps, written after them
    <uri>/metrics-<stage>.jsonl           every logged step
    <uri>/vae/                            the finished VAE, its config last

Of two checkpoints, the one with more steps counts. Latents are not kept, because making them again
costs less than transferring them.
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
    """The files of one training. Without `uri` they stay on this machine."""

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

    def steps_done(self, stage: Stage) -> int:
        """Return the steps done in a stage, here or on S3."""
        return max(saved_step(self.checkpoint(stage)), self._step_there(stage))

    def fetch(self, stage: Stage) -> None:
        """Download checkpoint and metrics from S3 if they have more steps than this machine's."""
        if self._step_there(stage) <= saved_step(self.checkpoint(stage)):
            return
        self.work.mkdir(parents=True, exist_ok=True)
        for path in (self.metrics(stage), self.checkpoint(stage)):
            coming = path.with_name(f"{path.name}.fetched")
            self.store.download(self._uri(path.name), coming)
            coming.rename(path)

    def send(self, stage: Stage) -> None:
        """Upload this machine's checkpoint and metrics to S3."""
        checkpoint = self.checkpoint(stage)
        if self.uri is None:
            return
        step = saved_step(checkpoint)
        for path in (self.metrics(stage), checkpoint):
            if path.exists():
                self.store.upload(path, self._uri(path.name), _BYTES)
        # The step comes last. After an interruption it is too low, which costs only a few steps.
        self.store.put(self._uri(f"{checkpoint.name}.step"), str(step).encode(), "text/plain")

    def _step_there(self, stage: Stage) -> int:
        if self.uri is None:
            return 0
        try:
            return int(self.store.get(self._uri(f"{_CHECKPOINTS[stage]}.step")))
        except NotFound:
            return 0

    def has_vae(self) -> bool:
        """Return whether the VAE is finished. If so, it is then here and on S3."""
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
    """Upload a folder to S3. The file `last` comes last and shows that the folder is complete."""
    store.delete(join_uri(uri, last))
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    for name in sorted(names, key=lambda name: (name == last, name)):
        store.upload(folder / name, join_uri(uri, name), _BYTES)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return every logged step so far, in order.

    A training that went back to a checkpoint logged some steps twice. Only the later ones count.
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
