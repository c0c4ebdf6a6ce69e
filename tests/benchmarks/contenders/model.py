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

from ace_tasks.lcu.canvas import Inputs
from ace_tasks.lcu.policies import build_canvas, restore_target
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.sources import open_variant
from ace_tasks.model.text import TextEncoder
from ace_tasks.settings import WeightsSettings
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
        """As upstream and diffusers' pipelines, which encode the prompt of every call."""
        self._model.text = TextEncoder(self._variant, self._model.parts, "cpu")

    def edit(self, picture: np.ndarray, prompt: str, seed: int) -> np.ndarray:
        """(H, W, 3) uint8 → the same size."""
        variant = self._variant
        unit, geometry = build_canvas(
            Inputs(
                image=picture,
                mask=None,
                references=(),
                width=0,
                height=0,
                max_seq_len=variant.max_seq_len,
                repainting_scale=0.0,
                keep_pixels_rate=None,
                use_change=variant.route == "fft",
            )
        )
        job = ModelJob(unit, prompt, seed=seed, steps=variant.steps, guidance=variant.guidance)
        (canvas,) = self._model.generate([job])
        return restore_target(canvas, geometry)
