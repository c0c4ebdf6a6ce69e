"""The outputs of frozen text encoders, encoded once and stored in a file for each prompt.

A file is named after the prompt's tokens, so equal prompts share one, whichever worker encodes
them. Only a batch's files are read, because FLUX's T5 gives 4 MB for each prompt.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ace_tasks.model.text import Text
from ace_tasks.training.latents import Latents

_FOLDER = "texts"


@dataclass(frozen=True)
class Texts:
    """The encoded texts in a folder of latents."""

    latents: Path

    def has(self, t5_T: np.ndarray, clip_T: np.ndarray) -> bool:
        return self._path(t5_T, clip_T).exists()

    def keep(self, t5_T: np.ndarray, clip_T: np.ndarray, text: Text) -> None:
        """Write one prompt's output in one step.

        It is stored as float16, half the bytes, which holds all digits of bfloat16.
        """
        path = self._path(t5_T, clip_T)
        path.parent.mkdir(parents=True, exist_ok=True)
        coming = path.with_name(f"{path.name}.{os.getpid()}")  # others may write the same file
        hidden, pooled = (
            each[0].to("cpu", torch.float16).numpy() for each in (text.hidden_BTD, text.pooled_BD)
        )
        with coming.open("wb") as file:
            np.savez(file, hidden=hidden, pooled=pooled)
        coming.rename(path)

    def fill(self, batch: Latents) -> Latents:
        """Return the batch with hidden states (B, T, D) and pooled ones (B, D) for its tokens."""
        hidden, pooled = [], []
        for t5_T, clip_T in zip(batch.t5_BT, batch.clip_BT, strict=True):
            with np.load(self._path(t5_T, clip_T)) as text:
                hidden.append(text["hidden"])
                pooled.append(text["pooled"])
        return replace(batch, t5_BT=np.stack(hidden), clip_BT=np.stack(pooled))

    def _path(self, t5_T: np.ndarray, clip_T: np.ndarray) -> Path:
        tokens = b"|".join(each.astype("<i4").tobytes() for each in (t5_T, clip_T))
        return self.latents / _FOLDER / f"{hashlib.sha256(tokens).hexdigest()}.npz"
