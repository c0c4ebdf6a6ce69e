"""The model that every contender holds, and what a user writes round it."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.sources import open_variant
from ace_tasks.model.text import TextEncoder
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import Source, Sources, parse_spec, resolve
from tests.benchmarks.contenders.workload import PHOTOS, Workload


class WatchedModel(AceModel):
    """The real model, which tells the journal of every pass; or one that only sleeps."""

    workload: Workload

    def generate(self, jobs: Sequence[ModelJob], *arguments: Any) -> list[np.ndarray]:
        for job in jobs:
            self.workload.record("begun", job.seed)
        if self.workload.sleep_s is None:
            made = super().generate(jobs, *arguments)
        else:
            # A GPU that is full takes as long for each picture of a batch.
            time.sleep(self.workload.sleep_s * len(jobs))
            made = [_photograph(*job.lcu.mask_1HW.shape[1:]) for job in jobs]
        for job in jobs:
            self.workload.record("made", job.seed)
        return made


def watched(workload: Workload) -> type[WatchedModel]:
    return type("WatchedModel", (WatchedModel,), {"workload": workload})


@functools.cache
def _photograph(height: int, width: int) -> np.ndarray:
    """What a model that sleeps has made: as hard to score and to encode as a real picture."""
    with Image.open(PHOTOS / "coffee.jpg") as photo:
        return np.asarray(photo.convert("RGB").resize((width, height)))


class Editor:
    """One loaded model; a picture and a prompt in, a picture out."""

    def __init__(self, workload: Workload):
        torch.set_num_threads(workload.threads)
        self._workload = workload
        settings = WeightsSettings(folder=Path(workload.weights))
        self._variant = open_variant(workload.variant, settings)
        self._model = watched(workload).load(self._variant, settings, "cpu")

    def forget_embeddings(self) -> None:
        """Forget them, as upstream and diffusers' pipelines encode the prompt of every call."""
        self._model.text = TextEncoder(self._variant, self._model.parts, "cpu")

    def edit(self, picture: np.ndarray, prompt: str, seed: int) -> np.ndarray:
        """Edit a picture, (H, W, 3) uint8. The result has the same size."""
        row = {"id": "a", "task": "edit", "image": "a", "prompt": prompt, "seed": seed}
        asked = resolve(parse_spec(row), Sources(image=Source(uri="a")), self._model.identity)
        plain = asked.model_copy(update={"adapter": None})
        pictures = Pictures(Picture(picture, None, "png", None))
        edit = PictureEdit.prepare(plain, pictures, route=self._variant.route)
        (canvas,) = self._model.generate(edit.jobs())
        return edit.finish(canvas).rgb
