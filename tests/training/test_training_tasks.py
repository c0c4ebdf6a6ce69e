"""Tasks over the world. If these break, a model learns an edit that its answer contradicts, or is
tested on what it was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from ace_tasks import specs
from ace_tasks.training import sample
from ace_tasks.training.world import control_pictures, grammar, selections, world_tasks
from ace_tasks.training.world.draws import Split, held_back, held_back_place
from ace_tasks.training.world.scene import (
    BACKGROUNDS,
    KINDS,
    PALETTE,
    PATTERNS,
    PERSON,
    TONES,
    Rendered,
    Scene,
    render,
)
from ace_tasks.training.world.world_tasks import (
    ALL_TASKS,
    STAGE_1_TASKS,
    Example,
    draw_example,
)
from tests.support.drawn import examples


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Scene]]:
    """Every scene that a task has rendered, for whichever of its pictures."""
    seen: list[Scene] = []

    def recording(scene: Scene, size_px: int) -> Rendered:
        seen.append(scene)
        return render(scene, size_px)

    monkeypatch.setattr(world_tasks, "render", recording)
    return seen


def some(task: str, count: int = 24, size_px: int = 64, split: Split = "train") -> list[Example]:
    return list(examples(11, count, size_px, split=split, tasks=(task,)))


def test_training_never_sees_what_is_held_back_and_sees_all_else(shown: list[Scene]) -> None:
    drawn = list(examples(0, 1500, 16))
    products = [scene for scene in shown if scene.kind is not None]
    assert len(products) > 1500
    for scene in products:
        assert not held_back(str(scene.kind), scene.paint), scene
        assert not held_back_place(str(scene.kind), scene.background), scene
    assert {s.kind for s in products} == set(KINDS)
    assert {s.paint.colour for s in products} == set(PALETTE)
    assert {s.paint.pattern for s in products} == set(PATTERNS)
    assert {s.paint.tone for s in products} == set(TONES)
    assert {s.background for s in products} == set(BACKGROUNDS)
    assert {s.flip for s in products} == {True, False}
    spoken = {word for example in drawn for word in example.prompt.split()}
    assert spoken == set(grammar.VOCABULARY)
    assert len(grammar.VOCABULARY) <= 150


def test_a_test_makes_or_removes_only_what_is_held_back() -> None:
    for example in examples(0, 300, 16, split="test"):
        scene = example.truth.before if example.task == "remove" else example.truth.after
        assert scene is not None
        assert held_back(str(scene.kind), scene.paint)
        assert held_back_place(str(scene.kind), scene.background)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_answer_is_the_scene_and_equals_the_input_outside_the_mask(task: str) -> None:
    for size_px in (64, 128):
        for example in some(task, 12, size_px):
            assert np.array_equal(example.target, render(example.truth.after, size_px).picture)
            if example.mask is None:
                continue
            assert example.image is not None
            assert example.mask.shape == (size_px, size_px)
            assert set(np.unique(example.mask)) == {0, 255}
            outside = example.mask == 0
            assert np.array_equal(example.image[outside], example.target[outside])
            assert not np.array_equal(example.image, example.target)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_an_example_is_a_row_of_training_of_the_task_it_is_labelled_with(task: str) -> None:
    """The answer must not leak through what the model is given on the 448-channel route."""
    for example in some(task, 4):
        assert specs.TASKS[example.spec].model_fields.keys() >= {"prompt"}
        built = sample.build(
            example.row(),
            max_seq_len=64,
            reference_h=64 if example.references else None,
            repainting_scale=example.repainting_scale,
            modify_mode=True,
        )
        assert built.change_CHW is not None
        seen = built.change_CHW * built.mask_1HW
        if example.repainting_scale == 1:
            assert not seen.any()
        else:
            assert example.image is not None
            content = torch.tensor(example.image).permute(2, 0, 1) / 127.5 - 1
            mask = built.mask_1HW.bool()
            assert torch.allclose(seen, content * mask, atol=1e-5)
        columns = specs.TASKS[example.spec].model_fields
        assert ("reference" in columns) == bool(example.references)
        assert example.image is None or "image" in columns
        assert example.mask is None or "mask" in columns


def test_stage_1_has_no_references_and_stage_2_has_all_tasks() -> None:
    assert set(STAGE_1_TASKS) < set(ALL_TASKS)
    for example in examples(2, 200, 16, tasks=ALL_TASKS):
        assert bool(example.references) == (example.task not in STAGE_1_TASKS)
    assert not any(e.references for e in examples(2, 200, 16, tasks=STAGE_1_TASKS))


def test_tasks_are_drawn_by_their_weights() -> None:
    counts = Counter(example.task for example in examples(4, 1200, 16))
    total = sum(task.weight for task in world_tasks.TASKS.values())
    for name, task in world_tasks.TASKS.items():
        assert counts[name] / 1200 == pytest.approx(task.weight / total, abs=0.035)


def test_an_example_depends_on_seed_split_and_index_only() -> None:
    """A loader may skip, shuffle and resume; seeds and splits must not repeat each other."""
    again = [draw_example(5, n, 32).target for n in (3, 1, 2)]
    drawn = {n: draw_example(5, n, 32).target for n in (1, 2, 3)}
    assert all(np.array_equal(a, drawn[n]) for a, n in zip(again, (3, 1, 2), strict=True))
    keys = [(5, 1, "train"), (5, 2, "train"), (6, 1, "train"), (5, 1, "test"), (1, 5, "train")]
    assert len({draw_example(s, n, 32, split=p).target.tobytes() for s, n, p in keys}) == 5


def test_prompts_name_what_cannot_be_seen() -> None:
    """A colour to be made from nothing must be named, else success is luck."""
    for task in ("inpaint", "add", "control", "recolour"):
        for example in some(task, 20, 32):
            paint, words = example.truth.after.paint, example.prompt.split()
            assert paint.colour in words
            if task != "recolour" and paint.pattern != "plain":
                marks = {"striped": "stripes", "dotted": "dots", "checked": "checks"}
                assert [paint.tone, marks[paint.pattern]] == words[words.index("with") + 1 :][:2]
    for task in ("inpaint", "background", "control", "reference"):
        for example in some(task, 20, 32):
            places = grammar.PLACES[example.truth.after.background]
            assert any(place in example.prompt for place in places), example.prompt


def test_an_edit_changes_what_it_says_and_nothing_else() -> None:
    for example in some("recolour"):
        before, after = example.truth.before, example.truth.after
        assert before is not None
        assert before.paint.colour != after.paint.colour
        assert replace(before, paint=after.paint) == after
        assert (before.paint.pattern, before.paint.tone) == (after.paint.pattern, after.paint.tone)
    for example in some("background"):
        before, after = example.truth.before, example.truth.after
        assert before is not None
        assert before.background != after.background
        assert replace(before, background=after.background) == after
    for example in some("try_on"):
        before, after = example.truth.before, example.truth.after
        assert before is not None
        assert before.paint != after.paint
        assert replace(before, paint=after.paint) == after
        assert after.kind == PERSON
    for example in some("reference"):
        before, after = example.truth.before, example.truth.after
        assert before is not None
        assert (before.kind, before.paint) == (after.kind, after.paint)
        assert before.background != after.background


def test_a_hole_is_erased_and_takes_enough_paint_to_be_scored() -> None:
    for example in some("inpaint", 60):
        assert example.image is not None
        assert example.mask is not None
        assert (example.image[example.mask > 0] == world_tasks.ERASED).all()
        painted = render(example.truth.after, 64).painted > 0
        assert (painted & (example.mask > 0)).sum() >= 0.25 * painted.sum()


@pytest.mark.parametrize("way", selections.WAYS)
def test_masks_made_in_every_way_cover_their_area_with_margins_alike(way: str) -> None:
    rng = np.random.default_rng(0)
    area = np.zeros((64, 64), bool)
    area[20:40, 24:44] = True
    area[20:30, 24:34] = False
    for _ in range(8):
        mask = selections.around(rng, area, (way,)) > 0
        assert (mask & area).sum() == area.sum()
        rows, columns = np.nonzero(mask)
        assert rows.min() + rows.max() == pytest.approx(59, abs=3)
        assert columns.min() + columns.max() == pytest.approx(67, abs=3)
        assert (mask.sum() == area.sum()) == (way == "exact")
        if way == "box":
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert mask.sum() == height * width


def test_control_pictures_leave_out_what_the_model_must_make() -> None:
    picture = draw_example(1, 0, 64, tasks=("recolour",)).target
    grey = control_pictures.gray(picture)
    assert (grey == grey[:, :, :1]).all()
    luma = picture @ np.array((0.299, 0.587, 0.114))
    assert np.abs(grey[:, :, 0] - luma).max() < 1
    assert len(np.unique(control_pictures.mosaic(picture).reshape(-1, 3), axis=0)) <= 144
    lines = control_pictures.edges(picture)
    assert set(np.unique(lines)) == {0, 255}
    assert 0.02 < (lines > 0).mean() < 0.5
    step = np.zeros((9, 9, 3), np.uint8)
    step[:, 5:] = 255
    assert np.flatnonzero(control_pictures.edges(step)[4, :, 0]).tolist() == [4, 5]
