"""The shortcuts of fast edits. If these break, an item's picture depends on its batch mates or on
what came before, an exact item is not exact, or a record names steps that were not left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ace_tasks.errors import Cancelled
from ace_tasks.images.closeness import psnr
from ace_tasks.model import fast_path, speed, weights
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.adapters import Mode
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.specs import Shortcuts
from tests.model.test_model import make_unit

LORA = find_variant("toy-lora")
STEPS = 8
LEVELS = 1  # of 255: how far apart two roundings of one picture are, as of exact ones


def load(weights_dir: Path, **options: Any) -> AceModel:
    return AceModel.load(LORA, WeightsSettings(folder=weights_dir), "cpu", **options)


@pytest.fixture(scope="module")
def model(weights_dir: Path) -> AceModel:
    return load(weights_dir, speed="fast")


def make_job(seed: int = 1, **changes: Any) -> ModelJob:
    settings: dict[str, Any] = {
        "prompt": f"cup {seed}", "seed": seed, "steps": STEPS, "guidance": 50.0,
        "shortcuts": Shortcuts(),
    }  # fmt: skip
    return ModelJob(make_unit(LORA, seed), **settings | changes)


def edit(model: AceModel, seed: int = 1, **changes: Any) -> np.ndarray:
    return model.generate([make_job(seed, **changes)])[0]


def levels(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize(
    ("shortcuts", "computed"),
    [
        pytest.param(Shortcuts(), [0, 1, 2, 4, 7, 10, 11], id="as runs have them"),
        pytest.param(Shortcuts(interval=5, last_steps=0), [0, 1, 2, 4, 9], id="few"),
        pytest.param(
            Shortcuts(first_steps=2, interval=2, last_steps=2),
            [0, 1, 3, 5, 7, 9, 10, 11],
            id="half",
        ),
        pytest.param(Shortcuts(interval=1), [*range(12)], id="all"),
    ],
)
def test_the_steps_that_are_computed_are_those_that_are_said(
    model: AceModel, shortcuts: Shortcuts, computed: list[int]
) -> None:
    step, seen = -2, []  # it is called once before the first step

    def count() -> None:
        nonlocal step
        step += 1

    attention = model.parts.transformer.transformer_blocks[0].attn
    hook = attention.register_forward_pre_hook(lambda *_: seen.append(step))
    try:
        model.generate([make_job(steps=12, shortcuts=shortcuts)], count)
    finally:
        hook.remove()
    assert seen == computed
    assert shortcuts.computed(12) == len(computed)


def test_a_fast_picture_is_another_one_and_an_exact_one_is_not(
    model: AceModel, weights_dir: Path
) -> None:
    exact = edit(load(weights_dir), shortcuts=None)
    fast = edit(model)
    assert levels(fast, exact) > 5
    assert np.array_equal(edit(model, shortcuts=None), exact)
    assert np.array_equal(edit(model), fast)
    assert np.array_equal(edit(load(weights_dir, speed="fast")), fast)
    # Where no step is left out there is nothing to lose.
    assert np.array_equal(edit(model, steps=3), edit(model, steps=3, shortcuts=None))


def test_which_mates_an_item_has_changes_no_bit_and_whether_it_has_any_only_rounding(
    model: AceModel,
) -> None:
    """The bound of exact batches. The schedule knows nothing of what is in a batch."""
    alone = edit(model)
    beside = [
        model.generate([make_job(1), *map(make_job, mates)])[0]
        for mates in ([2, 3], [4, 5], [6, 1])
    ]
    for each in beside:
        assert np.array_equal(each, beside[0])
        assert levels(each, alone) <= LEVELS


def test_an_item_leaves_nothing_to_the_next_not_even_one_that_was_cut(model: AceModel) -> None:
    expected = edit(model)
    calls = 0

    def cut() -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Cancelled("cut")

    with pytest.raises(Cancelled):
        model.generate([make_job(2)], cut)
    edit(model, seed=3, steps=12)
    assert np.array_equal(edit(model), expected)


@pytest.mark.parametrize("mode", ["resident", "fused"])
def test_adapters_are_fast_as_well(weights_dir: Path, mode: Mode) -> None:
    fast = load(weights_dir, speed="fast", adapter_mode=mode)
    plain, adapted = edit(fast), edit(fast, adapter="subject")
    assert levels(plain, adapted) > 10
    assert np.array_equal(edit(fast), plain)
    other = load(weights_dir, adapter_mode="resident" if mode == "fused" else "fused")
    assert levels(edit(other, adapter="subject"), adapted) <= LEVELS


def test_jobs_with_other_shortcuts_share_no_batch(model: AceModel) -> None:
    with pytest.raises(ValueError, match="one shape"):
        model.generate([make_job(1), make_job(2, shortcuts=None)])


@pytest.mark.thorough
def test_an_exact_item_between_fast_ones_has_the_weights_as_loaded(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torchao's own fp8 rows, which it can compute on a CPU, although it refuses to."""
    pytest.importorskip("torchao", reason="it is in the extra `gpu`")
    monkeypatch.setattr("torchao.quantization.quant_api._check_hardware_support", lambda _: None)
    monkeypatch.setattr(fast_path, "_no_fp8", lambda *_: None)
    variant = LORA.model_copy(update={"dtype": "bfloat16"})
    folder = weights.ensure(LORA, WeightsSettings(folder=weights_dir))
    exact, fast = (
        AceModel(
            variant, weights.load(variant, folder, "cpu"), "cpu", variant.identity(), mode, way
        )
        for mode, way in (("resident", "exact"), ("fused", "fast"))
    )
    fast.fast_path.prepare(fp8=True)
    assert fast.fast_path.precision == "fp8"
    assert fast.adapters.mode == "resident"  # nothing is added into weights in fp8
    every_step = Shortcuts(interval=1)
    for adapter in (None, "subject", "portrait", None):
        expected = edit(exact, adapter=adapter, shortcuts=None)
        in_fp8 = edit(fast, adapter=adapter, shortcuts=every_step)
        assert np.array_equal(edit(fast, adapter=adapter, shortcuts=None), expected)
        assert np.array_equal(edit(fast, adapter=adapter, shortcuts=every_step), in_fp8)
        assert levels(in_fp8, expected) > 0
        assert psnr(in_fp8, expected) > 20
    fast.fast_path.restore()
    assert fast.fast_path.precision is None
    restored = edit(fast, shortcuts=every_step)
    assert np.array_equal(restored, edit(exact, shortcuts=None))


@pytest.mark.thorough
def test_compiled_blocks_are_passed_over_as_well_and_compiled_for_nothing_anew(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ace_tasks.model.ace.compile_blocks",
        lambda transformer: speed.compile_blocks(transformer, backend="eager"),
    )
    counters.clear()
    try:
        compiled, eager = load(weights_dir, speed="compiled"), load(weights_dir, speed="fast")
        warm = int(counters["stats"]["unique_graphs"])
        for number, adapter in enumerate((None, "subject")):
            job = make_job(number, adapter=adapter)
            assert levels(compiled.generate([job])[0], eager.generate([job])[0]) <= LEVELS
            exact = replace(job, shortcuts=None)
            assert levels(compiled.generate([exact])[0], eager.generate([exact])[0]) <= LEVELS
        assert warm
        assert counters["stats"]["unique_graphs"] == warm
    finally:
        torch._dynamo.reset()
