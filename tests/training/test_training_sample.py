"""Training samples where the goldens are silent. If these break, a model is trained on a task that
inference never asks of it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from ace_tasks.errors import BadMask
from ace_tasks.training import sample
from ace_tasks.training.sample import Sample, TrainingExample


def _noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _build(example: TrainingExample, **changes: Any) -> Sample:
    defaults = {
        "max_seq_len": 2048,
        "reference_h": None,
        "repainting_scale": 0.5 if example.reference is None else 1.0,
        "modify_mode": True,
    }
    return sample.build(example, **(defaults | changes))


def test_without_a_picture_to_edit_all_of_a_white_one_is_painted() -> None:
    built = _build(TrainingExample(_noise(64, 48)), repainting_scale=0.0)
    assert built.mask_1HW.eq(1).all()
    assert built.change_CHW.eq(1).all()
    assert not built.edit_CHW.any()


def test_grey_masks_stay_grey_and_share_out_the_content() -> None:
    image, mask = _noise(64, 48), np.full((48, 64), 51, np.uint8)  # a fifth
    built = _build(TrainingExample(_noise(64, 48, seed=1), image, mask))
    whole = torch.from_numpy(image.transpose(2, 0, 1) / 127.5 - 1).float() * (1 - 0.5 * 0.2)
    assert torch.allclose(built.change_CHW, whole * 0.2, atol=1e-6)
    assert torch.allclose(built.edit_CHW, whole * 0.8, atol=1e-6)
    off = _build(TrainingExample(_noise(64, 48, seed=1), image, mask), modify_mode=False)
    assert torch.allclose(off.edit_CHW, whole, atol=1e-6)


def test_the_reference_is_part_of_what_is_learnt_but_not_masked() -> None:
    target, reference = _noise(64, 48), _noise(64, 96, seed=1)
    built = _build(TrainingExample(target, reference=reference), reference_h=24)
    assert built.target_CHW.shape == built.edit_CHW.shape == (3, 48, 16 + 64)
    assert not built.mask_1HW[:, :, :16].any()
    assert torch.equal(built.target_CHW[:, :, :16], built.edit_CHW[:, :, :16])
    assert built.target_CHW[:, 12:36, :16].any()
    assert not built.target_CHW[:, :12, :16].any()
    assert not built.target_CHW[:, 36:, :16].any()


def test_a_picture_of_another_size_takes_its_targets() -> None:
    built = _build(
        TrainingExample(_noise(64, 48), _noise(100, 30), np.full((30, 100), 255, np.uint8))
    )
    assert built.edit_CHW.shape == (3, 48, 64)
    with pytest.raises(BadMask, match=r"size \(30, 100\).*given \(48, 64\)"):
        _build(TrainingExample(_noise(64, 48), _noise(100, 30), np.full((48, 64), 255, np.uint8)))


def test_reference_heights_cover_a_third_to_the_whole() -> None:
    rng = random.Random(0)
    drawn = {sample.draw_reference_h(50, rng) for _ in range(2000)}
    assert drawn == set(range(16, 51))


def test_noise_goes_from_the_picture_to_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1, 16, 4, 6, generator=generator)
    assert torch.equal(sample.noisy(x0, eps, 0.0), x0)
    assert torch.equal(sample.noisy(x0, eps, 1.0), eps)
