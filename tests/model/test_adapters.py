"""LoRA adapters of one transformer, held in two ways. If these break, an item is edited with its
neighbour's adapter, or the weights drift with every switch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ace_tasks.model import keymap, weights
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.adapters import Mode
from ace_tasks.model.variants import Variant, adapter_file, find_variant
from ace_tasks.settings import WeightsSettings
from tests.model.test_model import make_unit
from tests.support.bfl import to_bfl

LORA = find_variant("toy-lora")
NAMES = (None, "portrait", "subject", "local_editing")


@pytest.fixture(scope="module")
def settings(weights_dir: object) -> WeightsSettings:
    return WeightsSettings(folder=weights_dir)  # type: ignore[arg-type]


def load(settings: WeightsSettings, mode: Mode, variant: Variant = LORA) -> AceModel:
    return AceModel.load(variant, settings, "cpu", adapter_mode=mode)


def job(adapter: str | None, seed: int = 1) -> ModelJob:
    return ModelJob(
        make_unit(LORA), "a red cup", seed=seed, steps=2, guidance=50.0, adapter=adapter
    )


def edit(model: AceModel, adapter: str | None) -> np.ndarray:
    return model.generate([job(adapter)])[0]


def velocity(model: AceModel, adapter: str | None) -> torch.Tensor:
    model.adapters.select(adapter)
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(1)
        x, condition = (
            torch.randn(shape, generator=generator) for shape in ((1, 16, 6, 8), (1, 12, 320))
        )
        return model.velocity(x, condition, model.text.encode("a red cup"), 0.7, 50.0)


@pytest.mark.parametrize("mode", ["resident", "fused"])
def test_every_adapter_acts_as_if_merged_into_the_checkpoint(
    settings: WeightsSettings, mode: Mode
) -> None:
    """W + up · down on BFL's fused weights, by hand, from the adapter's file."""
    folder = weights.ensure(LORA, settings)
    model = load(settings, mode)
    plain = velocity(model, None)
    for name in NAMES[1:]:
        merged = load(settings, "fused")
        merged.adapters.select(None)
        transformer = merged.parts.transformer
        bfl = to_bfl(transformer.state_dict(), transformer.config)
        lora = load_file(folder / adapter_file(str(name)))
        for key in [key for key in lora if key.endswith(".lora_up.weight")]:
            module = key.removesuffix(".lora_up.weight")
            target = next(
                k for k in bfl if "lora_unet_" + k.replace(".", "_") == f"{module}_weight"
            )
            bfl[target] = bfl[target] + lora[key] @ lora[f"{module}.lora_down.weight"]
        transformer.load_state_dict(keymap.from_bfl(bfl, transformer.config))
        expected, found = velocity(merged, None), velocity(model, name)
        assert (found - expected).abs().max() < 1e-5
        assert (found - plain).abs().max() > 0.1


def test_switching_leaves_nothing_behind(settings: WeightsSettings) -> None:
    """An adapter gives the same picture after any other; None gives that of the plain weights."""
    for mode in ("resident", "fused"):
        fresh = {name: edit(load(settings, mode), name) for name in NAMES}  # type: ignore[arg-type]
        assert len({each.tobytes() for each in fresh.values()}) == len(NAMES)
        model = load(settings, mode)  # type: ignore[arg-type]
        order = np.random.default_rng(0).choice(len(NAMES), 12)
        for index in order:
            assert np.array_equal(edit(model, NAMES[index]), fresh[NAMES[index]])


def test_fused_weights_do_not_drift_in_bf16(settings: WeightsSettings) -> None:
    """Adding and subtracting in place changes weights for good within 20 cycles; a pristine copy
    brings them back bit for bit."""
    variant = LORA.model_copy(update={"dtype": "bfloat16"})
    parts = weights.load(variant, weights.ensure(LORA, settings), "cpu")
    model = AceModel(variant, parts, "cpu", variant.identity(), "fused")
    before = {k: v.clone() for k, v in model.parts.transformer.state_dict().items()}
    model.adapters.select("subject")
    subject = {k: v.clone() for k, v in model.parts.transformer.state_dict().items()}
    assert any(not torch.equal(before[key], subject[key]) for key in before)
    for _ in range(20):
        for name in ("portrait", "subject"):
            model.adapters.select(name)
    after = model.parts.transformer.state_dict()
    assert all(torch.equal(subject[key], after[key]) for key in subject)
    model.adapters.select(None)
    after = model.parts.transformer.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_switch_that_failed_is_done_again(settings: WeightsSettings) -> None:
    """Out of memory in the middle: half the weights have the new adapter."""
    model = load(settings, "fused")
    expected = edit(model, "subject")
    edit(model, None)
    fused = model.adapters._chooser
    pairs = fused._pairs["subject"]  # type: ignore[union-attr]
    key = list(pairs)[len(pairs) // 2]
    whole, pairs[key] = pairs[key], (torch.zeros(1), torch.zeros(7, 7))
    with pytest.raises(RuntimeError):
        edit(model, "subject")
    pairs[key] = whole
    assert np.array_equal(edit(model, "subject"), expected)


def test_an_adapter_that_is_not_there_is_named(settings: WeightsSettings) -> None:
    model = load(settings, "resident")
    with pytest.raises(KeyError, match="landscape"):
        model.generate([job("landscape")])
