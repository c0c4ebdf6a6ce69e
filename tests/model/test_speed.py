"""The compiled transformer. If these break, a catalog of many sizes or adapters compiles anew for
each and costs hours, a picture changes by more than rounding, or a machine that cannot compile
makes none at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ace_tasks.model import keymap, speed, toy, weights
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.adapters import Mode
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings
from tests.model.test_model import make_unit

pytestmark = pytest.mark.thorough

LORA = find_variant("toy-lora")
RANKS = {"portrait": 8, "subject": 4, "local_editing": 4, "fourth": 2, "fifth": 16}
LEVELS = 2  # of 255: how far apart two roundings of one picture may be, in float32


@pytest.fixture(autouse=True)
def _compiled_for_this_test_alone() -> Iterator[None]:
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a compiler is asked is asked; what it answers runs as traced, so that no minute goes
    to C++. Recompiling is decided before that.
    """
    blocks = partial(speed.compile_blocks, backend="aot_eager")
    monkeypatch.setattr("ace_tasks.model.ace.compile_blocks", blocks)


def load(weights_dir: Path, mode: Mode, speed: speed.Speed) -> AceModel:
    """`toy-lora` with five adapters."""
    folder = weights.ensure(LORA, WeightsSettings(folder=weights_dir))
    parts = weights.load(LORA, folder, "cpu")
    generator = torch.Generator().manual_seed(3)
    adapters = {
        name: keymap.lora_from_comfy(
            toy.random_lora(parts.transformer, rank, generator), parts.transformer.config
        )
        for name, rank in RANKS.items()
    }
    parts = replace(parts, adapters=adapters)
    return AceModel(LORA, parts, "cpu", LORA.identity(), mode, speed)


def edit(model: AceModel, adapter: str | None, width: int = 64, height: int = 48) -> np.ndarray:
    unit = make_unit(LORA, 0, width, height)
    job = ModelJob(unit, "a red cup", seed=1, steps=2, guidance=50.0, adapter=adapter)
    return model.generate([job])[0]


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("mode", ["resident", "fused"])
@pytest.mark.usefixtures("traced")
def test_nothing_is_compiled_anew_for_another_size_or_adapter(
    weights_dir: Path, mode: Mode
) -> None:
    """Fifty canvases, one with as many tokens as the text has, and five adapters among them."""
    model = load(weights_dir, mode, "compiled")
    assert model.speed == "compiled"
    warm = graphs()
    assert warm
    sizes = [(16 * w, 16 * h) for w in range(2, 12) for h in range(2, 7)] + [(128, 128)]
    names = [None, *RANKS]
    for number, (width, height) in enumerate(sizes):
        edit(model, names[number % len(names)], width, height)
    assert graphs() == warm
    assert not counters["graph_break"]


@pytest.mark.parametrize("mode", ["resident", "fused"])
@pytest.mark.usefixtures("traced")
def test_every_adapter_is_the_same_compiled_but_for_rounding(weights_dir: Path, mode: Mode) -> None:
    exact, compiled = load(weights_dir, mode, "exact"), load(weights_dir, mode, "compiled")
    for name in ("fifth", None, "fourth", "portrait", "subject", "local_editing", None):
        one, other = edit(exact, name).astype(int), edit(compiled, name).astype(int)
        assert np.abs(one - other).max() <= LEVELS, name
    assert np.abs(edit(exact, "fifth").astype(int) - edit(exact, None)).max() > 10 * LEVELS


def test_a_compiled_picture_is_the_exact_one_but_for_rounding(weights_dir: Path) -> None:
    """With the compiler that runs use, for C++ here."""
    exact, compiled = (load(weights_dir, "fused", each) for each in ("exact", "compiled"))
    assert compiled.speed == "compiled"
    for name in (None, "portrait"):
        one, other = edit(exact, name).astype(int), edit(compiled, name).astype(int)
        assert np.abs(one - other).max() <= LEVELS, name


def test_without_a_compiler_pictures_are_exact_and_a_warning_says_why(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    with caplog.at_level(logging.WARNING):
        model = load(weights_dir, "resident", "compiled")
    assert "not compiled, so slower: " in caplog.text
    assert model.speed == "exact"
    exact = load(weights_dir, "resident", "exact")
    for name in (None, "portrait", "fifth", None):
        assert np.array_equal(edit(model, name), edit(exact, name)), name
