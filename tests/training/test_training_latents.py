"""The training set as latents. If these break, the model is trained on the answer it shall find, on
held-out pictures, or on half a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ace_tasks.model import sampling
from ace_tasks.model.variants import find_variant
from ace_tasks.training import latents, sample, vae
from ace_tasks.training.latents import DataSettings, Encoder, Latents
from ace_tasks.training.preview import example_edit
from ace_tasks.training.small import Tokenizers
from ace_tasks.training.world.grammar import VOCABULARY
from ace_tasks.training.world.world_tasks import ALL_TASKS, STAGE_1_TASKS, Example, draw_example
from tests.support.tiny_training import tiny_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = tiny_recipe()
FEW = RECIPE.data.model_copy(update={"examples": 12, "chunk": 5})
ALWAYS_FULL = RECIPE.data.model_copy(update={"full_references": 1.0, "empty_prompts": 0.0})


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    model = vae.settle(vae.make(RECIPE.vae).eval(), RECIPE.vae, pictures=8)
    return Encoder(model, Tokenizers.make(RECIPE.small, VOCABULARY))


def example_of(task: str, split: str = "train", number: int = 0) -> Example:
    return draw_example(3, number, 64, split=split, tasks=(task,))  # type: ignore[arg-type]


def encode(example: Example, encoder: Encoder, settings: DataSettings = ALWAYS_FULL) -> Latents:
    return latents.encode(example, 0, settings, encoder)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_nothing_of_the_answer_is_among_the_conditions(task: str, encoder: Encoder) -> None:
    """Another answer leaves the conditions the same to the bit. Erased pixels are not in them
    either.
    """
    example = example_of(task)
    encoded = encode(example, encoder)
    noise = np.random.default_rng(0).integers(0, 256, example.target.shape, dtype=np.uint8)
    other = encode(_with(example, target=noise), encoder)
    assert not np.array_equal(encoded.target_BCHW, other.target_BCHW)
    for name in ("edit_BCHW", "change_BCHW", "mask_BCHW", "t5_BT", "clip_BT"):
        assert np.array_equal(getattr(encoded, name), getattr(other, name)), name
    if example.image is None or example.mask is None or not example.repainting_scale:
        return
    hidden = np.where(example.mask[:, :, None] > 0, noise, example.image)
    masked = encode(_with(example, image=hidden), encoder)
    assert np.array_equal(encoded.edit_BCHW, masked.edit_BCHW)
    assert np.array_equal(encoded.change_BCHW, masked.change_BCHW)


def _with(example: Example, **changes: np.ndarray) -> Example:
    return Example(**{**example.__dict__, **changes})


@pytest.mark.parametrize("task", ["reference", "try_on"])
def test_the_seam_is_exact_and_the_mask_stands_right_of_it(task: str, encoder: Encoder) -> None:
    example = example_of(task)
    found = encode(example, encoder)
    assert found.target_BCHW.shape == (1, 16, 8, 16)
    assert found.reference_w == 8
    alone = np.ones((64, 64), np.uint8) if example.mask is None else example.mask // 255
    shuffled = sampling.mask_latents(torch.tensor(alone)[None, None].float())
    assert np.array_equal(found.mask_BCHW[:, :, :, 8:], shuffled.numpy())
    assert not found.mask_BCHW[:, :, :, :8].any()


def test_mask_channels_are_pixels_of_a_latent_row_by_row(encoder: Encoder) -> None:
    example = example_of("recolour")
    assert example.mask is not None
    mask = np.zeros_like(example.mask)
    mask[8 * 2 + 3, 8 * 5 + 6] = 255
    found = encode(_with(example, mask=mask), encoder).mask_BCHW
    assert np.argwhere(found).tolist() == [[0, 3 * 8 + 6, 2, 5]]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_inference_builds_the_canvas_that_training_saw(task: str) -> None:
    example = example_of(task)
    built = sample.build(
        example.row(),
        max_seq_len=4096,
        reference_h=64,
        modify_mode=True,
        repainting_scale=example.repainting_scale,
    )
    edit = example_edit(example, 0, find_variant("toy").identity())
    unit, geometry = edit.unit, edit.geometry
    assert unit is not None
    assert geometry is not None
    assert geometry.slice_w == 64 * len(example.references)
    assert torch.equal(unit.edit_CHW, built.edit_CHW)
    assert torch.equal(unit.mask_1HW, built.mask_1HW)
    assert unit.change_CHW is not None
    assert torch.equal(unit.change_CHW, built.change_CHW)


def test_references_are_shown_smaller_now_and_then(encoder: Encoder) -> None:
    settings = RECIPE.data.model_copy(update={"full_references": 0.0})
    example = example_of("reference")
    widths = {
        latents.encode(example, number, settings, encoder).reference_w for number in range(12)
    }
    assert widths == {4, 6}  # 2 and 3 tokens of 4


def test_held_back_scenes_are_never_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: Encoder
) -> None:
    drawn: list[dict[str, object]] = []

    def watch(*args: object, **options: object) -> Example:
        drawn.append(options)
        return draw_example(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(latents, "draw_example", watch)
    latents.make_chunk(tmp_path, 0, FEW, encoder)
    assert len(drawn) == FEW.chunk
    assert {each.get("split", "train") for each in drawn} == {"train"}


def test_a_chunk_is_a_function_of_its_number(tmp_path: Path, encoder: Encoder) -> None:
    """A process that was killed while it wrote a chunk leaves nothing under the chunk's name."""
    settings = FEW
    assert latents.missing(tmp_path / "a", settings) == [0, 1, 2]
    for number in (0, 1, 2):
        latents.make_chunk(tmp_path / "a", number, settings, encoder)
    whole = latents.chunk_path(tmp_path / "a", 1).read_bytes()
    cut = tmp_path / "b" / f"{latents.chunk_path(tmp_path, 1).name}.123"
    cut.parent.mkdir()
    cut.write_bytes(whole[:1000])
    assert latents.missing(tmp_path / "b", settings) == [0, 1, 2]
    for number in (2, 1, 0):
        latents.make_chunk(tmp_path / "b", number, settings, encoder)
    assert latents.missing(tmp_path / "b", settings) == []
    one, other = (latents.load(tmp_path / name, settings) for name in "ab")
    assert [each.shape for each in one] == [each.shape for each in other]
    for left, right in zip(one, other, strict=True):
        for name in Latents.__dataclass_fields__:
            assert np.array_equal(getattr(left, name), getattr(right, name))
    assert sum(map(len, one)) == settings.examples
    shutil.rmtree(tmp_path / "b")


def test_the_stage_of_each_example_is_its_tasks(tmp_path: Path, encoder: Encoder) -> None:
    for number in (0, 1, 2):
        latents.make_chunk(tmp_path, number, FEW, encoder)
    tasks = [
        draw_example(FEW.seed, number, 64, tasks=ALL_TASKS).task for number in range(FEW.examples)
    ]
    found = latents.load(tmp_path, FEW)
    first = sum(int(each.stage_1_B.sum()) for each in found)
    assert first == sum(task in STAGE_1_TASKS for task in tasks)
    assert all(each.stage_1_B.all() == (not each.reference_w) for each in found)
