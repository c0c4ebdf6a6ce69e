"""The choice of what stays on a device. If these break, a replica on a small GPU dies at its start,
or one on a large GPU waits for weights at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ace_tasks.errors import WeightsError
from ace_tasks.model import weights
from ace_tasks.model.ace import AceModel
from ace_tasks.model.fit import MEMORY_MODES, Memory, Sizes, choose, find_fit, measure, work_bytes
from ace_tasks.model.variants import FLUX_CONFIG, find_variant
from ace_tasks.settings import WeightsSettings
from tests.model.test_model import make_job

GB = 10**9
# FLUX.1-Fill-dev in bf16, with ACE++'s adapters.
FLUX = Sizes(text=10 * GB, transformer=24 * GB, vae=GB // 5, work=5 * GB)


@pytest.mark.parametrize(
    ("free_gb", "mode"),
    [(140, "resident"), (80, "resident"), (40, "resident"), (31.5, "text_offload"),
     (24, "blocks"), (19, "blocks"), (5, "offload")],
)  # fmt: skip
def test_the_fastest_way_that_fits_is_taken(free_gb: float, mode: str) -> None:
    fit = choose("auto", FLUX, int(free_gb * GB))
    assert fit.mode == mode
    assert f"{free_gb:.1f} GB are free; everything takes 39.2 GB" in fit.reason


def test_less_is_never_answered_with_more() -> None:
    chosen = [
        MEMORY_MODES.index(choose("auto", FLUX, free).mode) for free in range(0, 45 * GB, GB // 4)
    ]
    assert chosen == sorted(chosen, reverse=True)
    assert {*chosen} == {0, 1, 2, 3}


@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_what_a_person_asks_for_is_done(memory: Memory) -> None:
    fit = choose(memory, FLUX, 140 * GB)
    assert fit.mode == memory
    assert fit.reason.startswith("asked for; 140.0 GB are free")


def test_a_picture_at_full_size_is_computed_in_a_few_gigabytes() -> None:
    """The largest canvas of FLUX's geometry; published peaks are 2 to 4 GB over the weights."""
    vae = {"block_out_channels": (128, 256, 512, 512)}
    assert 2 * GB < work_bytes(find_variant("flux-fill-lora"), FLUX_CONFIG, vae, 2) < 5 * GB


def test_sizes_read_from_headers_are_those_of_what_is_loaded(weights_dir: Path) -> None:
    variant = find_variant("toy-lora")
    folder = weights.ensure(variant, WeightsSettings(folder=weights_dir))
    parts = weights.load(variant, folder, "cpu")

    def size(module: Any) -> int:
        return sum(value.nbytes for value in module.parameters())

    found = measure(variant, folder)
    adapters = sum(v.nbytes for state in parts.adapters.values() for v in state.values())
    assert found.text == size(parts.clip) + size(parts.t5)
    # In a file queries, keys and values share a matrix, of which each gets a copy.
    assert 0 <= size(parts.transformer) + adapters - found.transformer < adapters / 5
    assert found.vae == size(parts.vae)
    half = measure(variant.model_copy(update={"dtype": "bfloat16"}), folder)
    assert (2 * half.text, 2 * half.vae) == (found.text, found.vae)


def test_a_file_that_is_cut_is_named(weights_dir: Path, tmp_path: Path) -> None:
    for part in ("text_encoder", "transformer", "vae"):
        (tmp_path / part).mkdir()
    (tmp_path / "vae" / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(WeightsError, match=r"vae/cut\.safetensors: not a complete"):
        measure(find_variant("toy"), tmp_path)


@pytest.mark.parametrize("memory", ["auto", "resident", "blocks"])
def test_a_cpu_has_one_memory_and_does_what_it_is_asked(memory: Memory, tmp_path: Path) -> None:
    fit = find_fit(memory, find_variant("toy"), tmp_path, "cpu")
    assert fit.mode == ("resident" if memory == "auto" else memory)


def test_on_a_device_that_holds_half_of_it_a_model_starts_and_makes_the_same_picture(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, settings = find_variant("toy-lora"), WeightsSettings(folder=weights_dir)
    whole = AceModel.load(variant, settings, "cpu")
    assert whole.memory == "resident"
    sizes = measure(variant, weights.ensure(variant, settings))
    free = sizes.vae + sizes.work + sizes.transformer // 2
    monkeypatch.setattr("ace_tasks.model.fit.free_bytes", lambda _: free)
    small = AceModel.load(variant, settings, "cpu")
    assert small.memory == "blocks"
    for adapter in (None, "portrait"):
        jobs = [make_job(each, adapter=adapter) for each in (whole, small)]
        assert np.array_equal(whole.generate(jobs[:1])[0], small.generate(jobs[1:])[0])
