"""Parity with the reference, on inputs and outputs recorded from its own code.

If these break, every released ACE++ checkpoint still loads and makes pictures, but not those it
was trained to make. The second half breaks the project on purpose, once for each rule that is
easy to get wrong: a golden that lets such a change pass would guard nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ace_tasks.lcu import upstream
from ace_tasks.lcu.canvas import MASK_THRESHOLD, resize
from ace_tasks.model import sampling
from ace_tasks.model.ace import AceModel
from ace_tasks.training import sample
from tests import golden_adapter

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CASES = sorted(path for path in GOLDEN.glob("*.npz") if not path.stem.startswith("weights_"))


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The checker that came with the cases; it is no package."""
    spec = importlib.util.spec_from_file_location("check_golden", GOLDEN / "check_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _disagreements(checker: ModuleType, name: str) -> list[str]:
    count, failures, _ = checker.run_all([str(GOLDEN)], golden_adapter, quiet=True, only={name})
    assert count == 1
    return list(failures.get(name, []))


def test_all_cases_are_there() -> None:
    assert len(CASES) >= 11
    assert sum(case.stem.startswith("train_") for case in CASES) >= 2


@pytest.mark.parametrize("name", [case.stem for case in CASES])
def test_the_reference_agrees(checker: ModuleType, name: str) -> None:
    assert _disagreements(checker, name) == []


# ---------------------------------------------------------------- deliberate breakage


def _mask_by_columns(patch: pytest.MonkeyPatch) -> None:
    right = sampling.mask_latents
    patch.setattr(sampling, "mask_latents", lambda mask: right(mask.mT).mT)


def _nearest(patch: pytest.MonkeyPatch) -> None:
    right = resize
    for place in (sample, upstream):  # training's, inference's
        patch.setattr(
            place, "resize", lambda x, h, w, mode: right(x, h, w, mode.removesuffix("-exact"))
        )


def _threshold_included(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(upstream, "MASK_THRESHOLD", MASK_THRESHOLD - 1)


def _posterior_mode(patch: pytest.MonkeyPatch) -> None:
    right = AceModel.encode_image
    patch.setattr(
        AceModel, "encode_image", lambda self, x, eps: right(self, x, torch.zeros_like(eps))
    )


def _no_shift(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "shift_mu", lambda tokens: 0.0)


def _seam_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(upstream, "_SEAM_CROP_PX", 0)


def _rounding_swapped(patch: pytest.MonkeyPatch) -> None:
    def swapped(self: AceModel, pixels_HWC: torch.Tensor) -> np.ndarray:
        levels = pixels_HWC * 255
        levels = levels.round() if self.variant.route == "fft" else levels
        return levels.to(torch.uint8).numpy()

    patch.setattr(AceModel, "to_uint8", swapped)


@pytest.mark.parametrize(
    ("breakage", "name", "key"),
    [
        (_mask_by_columns, "local_editing_half_384", "packed"),
        (_mask_by_columns, "train_edit_only_384", "v"),
        (_nearest, "floor_size_edit", "out_image"),
        (_nearest, "train_ref_edit_448", "src"),
        (_threshold_included, "repaint_odd_graymask", "out_mask"),
        (_posterior_mode, "ref_generation_384", "z_edit"),
        (_posterior_mode, "train_edit_only_384", "x0"),
        (_no_shift, "ref_generation_384", "sigmas"),
        (_seam_kept, "ref_generation_384", "final"),
        (_rounding_swapped, "ref_generation_384", "decoded"),
        (_rounding_swapped, "no_preprocess_edit_448", "decoded"),
    ],
)
def test_a_broken_rule_is_seen(
    checker: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    breakage: Callable[[pytest.MonkeyPatch], None],
    name: str,
    key: str,
) -> None:
    breakage(monkeypatch)
    found = _disagreements(checker, name)
    assert any(each.startswith(f"{key}:") for each in found), found
