"""The loss of a fast picture, beside the same item made exact."""

from __future__ import annotations

import math

import numpy as np

from ace_tasks.images.closeness import psnr
from ace_tasks.images.paste import THRESHOLD
from ace_tasks.provenance.record import LossRecord
from ace_tasks.replica.candidates import Candidate
from ace_tasks.replica.edit import PictureEdit


def measure_loss(edit: PictureEdit, fast: Candidate, exact: Candidate) -> LossRecord:
    """Compare the two in the part that the model repaints, or wholly if there is no mask."""
    first, second = fast.pixels.rgb, exact.pixels.rgb
    part = None
    if edit.mask is not None and edit.mask.shape == first.shape[:2]:
        part = edit.mask > THRESHOLD
    psnr_db = psnr(first, second, part)
    difference = np.abs(first.astype(np.int16) - second)
    return LossRecord(
        psnr_db=round(psnr_db, 2) if math.isfinite(psnr_db) else None,
        largest_difference=int((difference if part is None else difference[part]).max()),
        fast=fast.scores,
        exact=exact.scores,
    )
