"""Where parts of a model lie. If these break, a part is half on the GPU after memory ran out, and
every later item fails; or saving memory changes pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ace_tasks.lcu.canvas import LCU
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.residence import MEMORY_MODES, Residence
from ace_tasks.model.variants import find_variant
from ace_tasks.replica.ladder import Ladder
from ace_tasks.settings import WeightsSettings
from tests.model.test_model import load, make_job


class Part(torch.nn.Module):
    """Tells where it is sent; the first `refusals` moves to the device fail."""

    def __init__(self, refusals: int = 0) -> None:
        super().__init__()
        self.moves: list[str] = []
        self._refusals = refusals

    def to(self, place: str) -> Part:  # type: ignore[override]
        self.moves.append(place)
        if place == "device" and self._refusals:
            self._refusals -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self


def test_what_is_there_is_not_moved_again() -> None:
    text, transformer = Part(), Part()
    residence = Residence((text,), transformer, "device")
    for _ in range(2):
        residence.bring("text")
        residence.take_away("transformer")
    residence.bring("transformer")
    assert (text.moves, transformer.moves) == ([], ["cpu", "device"])


def test_a_move_that_failed_halfway_is_done_again() -> None:
    first, second = Part(), Part(refusals=1)
    residence = Residence((first, second), Part(), "device")
    residence.take_away("text")
    with pytest.raises(torch.OutOfMemoryError):
        residence.bring("text")
    residence.bring("text")
    residence.bring("text")
    assert first.moves == second.moves == ["cpu", "device", "device"]


@pytest.mark.parametrize("variant", ["toy", "toy-lora"])
@pytest.mark.parametrize("adapter_mode", ["resident", "fused"])
def test_a_mode_changes_no_bit_and_what_works_is_on_the_device(
    weights_dir: Path, variant: str, adapter_mode: str
) -> None:
    model = load(variant, weights_dir, adapter_mode=adapter_mode)
    watched = Watched(model)
    adapters = ["subject", "portrait", None] if variant == "toy-lora" else [None] * 3
    jobs = [
        make_job(model, seed, prompt=f"a cup {seed // 2}", seed=seed, adapter=adapter)
        for seed, adapter in enumerate(adapters)
    ]
    plain = [model.generate([job])[0] for job in jobs]
    for mode in (*MEMORY_MODES, *reversed(MEMORY_MODES)):
        model.text._texts.clear()
        for job, picture in zip(jobs, plain, strict=True):
            assert np.array_equal(model.generate([job], memory=mode)[0], picture), mode
    assert watched.calls == 7 * (3 * 3 + 2 * 2)  # steps, and two prompts by two encoders


class Watched:
    """Asserts at every call of a part that the part was brought to the device before.

    Both places are the same memory on a CPU, so nothing but the request can be seen.
    """

    def __init__(self, model: AceModel) -> None:
        self.calls = 0
        places = model.residence._places
        model.residence._device = "cpu:0"  # the same, under another name
        places.update(dict.fromkeys(places, "cpu:0"))

        def watch(part: torch.nn.Module, name: str) -> None:
            def check(*_: object) -> None:
                self.calls += 1
                assert places[name] == "cpu:0", name  # type: ignore[index]

            part.register_forward_pre_hook(check)

        watch(model.parts.t5, "text")
        watch(model.parts.clip, "text")
        watch(model.parts.transformer, "transformer")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_each_mode_needs_less_and_changes_no_bit(weights_dir: Path) -> None:
    settings = WeightsSettings(folder=weights_dir)
    model = AceModel.load(find_variant("toy-lora"), settings, "cuda")
    job = make_job(model, prompt="a cup", adapter="subject")
    pictures, left = [], []
    for mode in MEMORY_MODES:
        pictures.append(model.generate([job], memory=mode)[0])
        left.append(torch.cuda.memory_allocated())
    assert left[0] > left[1] > left[2]
    assert all(np.array_equal(each, pictures[0]) for each in pictures)


# ---------------------------------------------------------------- the ladder


def job(side: int) -> ModelJob:
    unit = LCU(torch.zeros(3, side, side), torch.zeros(1, side, side), None)
    return ModelJob(unit, "", seed=0, steps=1, guidance=1.0)


def test_a_ladder_goes_down_rung_by_rung() -> None:
    ladder, large = Ladder(8), job(64)
    seen = []
    while True:
        rung = ladder.rung(large)
        seen.append((rung.batch_size, rung.mode))
        if not ladder.descend(large, rung.batch_size):
            break
    assert seen == [
        (8, "resident"),
        (4, "resident"),
        (2, "resident"),
        (1, "resident"),
        (1, "text_offload"),
        (1, "offload"),
    ]
    assert ladder.rung(job(32)).batch_size == 8  # another canvas
    assert "64×64 px, 16 tokens; tried: 8 together; 4 together" in ladder.story(large)
