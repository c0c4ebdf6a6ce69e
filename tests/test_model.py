"""The toy variants through the real classes: files on a node, strict loading, and pictures that
depend on their item alone. If these break, a node works with wrong weights, or a rerun of one item
gives another picture than the run before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ace_tasks import lcu
from ace_tasks.errors import Cancelled, WeightsError
from ace_tasks.model import weights
from ace_tasks.model.ace import AceModel
from ace_tasks.model.variants import find_variant

NAMES = ("toy", "toy-lora")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, weights_dir: Path) -> AceModel:
    return AceModel.load(find_variant(request.param), weights_dir, "cpu")


@pytest.fixture
def folder(weights_dir: Path, tmp_path: Path) -> Path:
    """A copy of the toy's files, to be spoilt."""
    made = weights.ensure(find_variant("toy"), weights_dir)
    return Path(shutil.copytree(made, tmp_path / made.name))


def _unit(model: AceModel, seed: int = 0, width: int = 64, height: int = 48) -> lcu.LCU:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    unit, _ = lcu.build(
        lcu.Inputs(
            image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            mask=mask,
            references=(),
            width=0,
            height=0,
            max_seq_len=model.variant.max_seq_len,
            repainting_scale=1.0,
            keep_pixels_rate=None,
            use_change=model.variant.route == "fft",
        )
    )
    return unit


def _edit(model: AceModel, unit: lcu.LCU, prompt: str = "a red cup", seed: int = 1) -> np.ndarray:
    return model.generate(unit, prompt, seed=seed, steps=3, guidance=50.0)


# ---------------------------------------------------------------- files


_FOUR_CALLERS = """
import multiprocessing, sys
from pathlib import Path
from ace_tasks.model import weights
from ace_tasks.model.variants import find_variant

folder, log = Path(sys.argv[1]), Path(sys.argv[2])
processes = multiprocessing.get_context("fork")  # torch is loaded once, and has not worked yet
together = processes.Barrier(4)
build = weights._build_toy

def counted(*args):
    with log.open("a") as file:
        file.write("built\\n")
    build(*args)

weights._build_toy = counted

def call(_):
    together.wait()
    return str(weights.ensure(find_variant("toy"), folder))

with processes.Pool(4) as pool:
    print(*set(pool.map(call, range(4), chunksize=1)))
"""


def test_of_many_processes_one_builds_and_all_find_it(tmp_path: Path) -> None:
    log, weights_dir = tmp_path / "log", tmp_path / "weights"
    answer = subprocess.run(
        [sys.executable, "-c", _FOUR_CALLERS, str(weights_dir), str(log)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=200,
        check=True,
    )
    assert log.read_text() == "built\n"
    (found,) = answer.stdout.split()
    weights.verify(Path(found))
    name = Path(found).name
    assert {path.name for path in weights_dir.iterdir()} == {name, f"{name}.lock"}


def test_a_second_call_finds_what_the_first_made(weights_dir: Path) -> None:
    first = weights.ensure(find_variant("toy"), weights_dir)
    made = (first / "sha256.json").stat()
    started = time.monotonic()
    assert weights.ensure(find_variant("toy"), weights_dir) == first
    assert time.monotonic() - started < 0.5
    assert (first / "sha256.json").stat().st_mtime_ns == made.st_mtime_ns


def test_a_folder_without_its_list_of_hashes_is_made_again(tmp_path: Path) -> None:
    """What a node's crash leaves behind."""
    variant = find_variant("toy")
    made = weights.ensure(variant, tmp_path)
    hashes = json.loads((made / "sha256.json").read_text())
    (made / "sha256.json").unlink()
    (made / WEIGHTS).write_bytes(b"half")
    assert weights.ensure(variant, tmp_path) == made
    assert json.loads((made / "sha256.json").read_text()) == hashes  # built the same, bit for bit
    weights.verify(made)


def test_an_altered_file_is_named(folder: Path) -> None:
    path = folder / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit of one weight
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=f"{WEIGHTS}: altered; expected SHA-256"):
        weights.load(find_variant("toy"), folder, "cpu")


@pytest.mark.parametrize("name", [WEIGHTS, "vae/config.json", "tokenizer_2/tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name}: missing"):
        weights.load(find_variant("toy"), folder, "cpu")


def test_a_pickle_in_the_folder_is_refused(folder: Path) -> None:
    torch.save({}, folder / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.bin: not in sha256\.json"):
        weights.load(find_variant("toy"), folder, "cpu")


def test_a_pickle_is_refused_even_if_it_is_listed(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "transformer" / "diffusion_pytorch_model.bin")
    _relist(folder)
    with pytest.raises(WeightsError, match="transformer"):
        weights.load(find_variant("toy"), folder, "cpu")


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
def test_a_key_that_does_not_fit_is_named(folder: Path, change: str) -> None:
    """The hashes agree, the keys do not: the wrong checkpoint, correctly downloaded."""
    state = load_file(folder / WEIGHTS)
    key = "proj_out.weight"
    if change == "missing":
        del state[key]
    elif change == "surplus":
        key = "lora.weight"
        state[key] = torch.zeros(1)
    else:
        state[key] = state[key][1:].clone()
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    _relist(folder)
    with pytest.raises(WeightsError, match=key):
        weights.load(find_variant("toy"), folder, "cpu")


def test_an_unreadable_list_of_hashes_is_named(folder: Path) -> None:
    (folder / "sha256.json").write_text("{")
    with pytest.raises(WeightsError, match=r"sha256\.json: unreadable"):
        weights.verify(folder)


def _relist(folder: Path) -> None:
    (folder / "sha256.json").write_text(json.dumps(weights._hashes(folder)))


# ---------------------------------------------------------------- pictures


def test_a_picture_has_the_canvas_size_and_is_no_flat_colour(model: AceModel) -> None:
    pixels = _edit(model, _unit(model))
    assert pixels.shape == (48, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 1


def test_the_same_item_gives_the_same_pixels(model: AceModel, weights_dir: Path) -> None:
    unit = _unit(model)
    first = _edit(model, unit)
    assert np.array_equal(_edit(model, unit), first)
    again = AceModel.load(model.variant, weights_dir, "cpu")
    assert np.array_equal(_edit(again, unit), first)


def test_seed_prompt_and_picture_all_count(model: AceModel) -> None:
    unit = _unit(model)
    first = _edit(model, unit)
    assert not np.array_equal(_edit(model, unit, seed=2), first)
    assert not np.array_equal(_edit(model, unit, prompt="a blue cup"), first)
    assert not np.array_equal(_edit(model, _unit(model, seed=1)), first)
    more = model.generate(unit, "a red cup", seed=1, steps=4, guidance=50.0)
    assert not np.array_equal(more, first)
    weaker = model.generate(unit, "a red cup", seed=1, steps=3, guidance=1.0)
    assert not np.array_equal(weaker, first)


def test_neither_neighbours_nor_cached_prompts_change_an_item(
    model: AceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        (_unit(model, seed, width), prompt, seed)
        for seed, (width, prompt) in enumerate(
            [(64, "a red cup"), (96, "a blue cup"), (64, "a red cup"), (48, "")]
        )
    ]
    model._texts.clear()
    forward = [_edit(model, *item) for item in items]
    torch.manual_seed(99)  # nothing is drawn from the global generator
    backward = [_edit(model, *item) for item in reversed(items)]
    monkeypatch.setattr("ace_tasks.model.ace._CACHED_PROMPTS", 0)
    uncached = [_edit(model, *item) for item in items]
    for one, other, third in zip(forward, reversed(backward), uncached, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


def test_the_prompt_cache_forgets_the_oldest(
    model: AceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ace_tasks.model.ace._CACHED_PROMPTS", 2)
    model._texts.clear()
    for prompt in ("a", "b", "a", "c"):
        model.encode_text(prompt)
    assert list(model._texts) == ["a", "c"]


def test_stopping_between_steps_leaves_the_model_as_it_was(model: AceModel) -> None:
    unit = _unit(model)
    expected = _edit(model, unit)
    calls = 0

    def stop_in_the_middle() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        model.generate(
            unit, "a red cup", seed=1, steps=3, guidance=50.0, between_steps=stop_in_the_middle
        )
    assert calls == 2  # at once, not at the end
    assert np.array_equal(_edit(model, unit), expected)


def test_the_two_routes_are_told_apart_by_their_channels(weights_dir: Path) -> None:
    channels = [
        AceModel.load(find_variant(name), weights_dir, "cpu").parts.transformer.config.in_channels
        for name in NAMES
    ]
    assert channels == [448, 384]
