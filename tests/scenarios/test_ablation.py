"""The ablation. If these break, a table compares trainings that differ in more than it says: other
data, other first weights, a step that was resumed, or a condition the model never saw.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ace_tasks.training import objective
from ace_tasks.training.keeping import read_metrics
from ace_tasks.training.objective import Batches
from ace_tasks.training.recipe import Recipe
from tests.benchmarks.ablation import report, train
from tests.benchmarks.ablation.__main__ import run, steps_of
from tests.benchmarks.ablation.arms import ARMS, PAPER, Arm
from tests.benchmarks.ablation.report import Result
from tests.benchmarks.ablation.sequence import in_sequence
from tests.support.tiny_training import tiny_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHTS = {"inpaint": 0, "remove": 0, "add": 0, "control": 0, "background": 0}
NANO = tiny_recipe(
    steps=2,
    vae_from="mini-vae",
    data={
        "sizes_px": [64],
        "examples": 12,
        "chunk": 12,
        "full_references": 1,
        "task_weights": WEIGHTS,
    },
    objective={"batch": 2},
)
BY_NAME = {arm.name: arm for arm in ARMS}
SEEDS = 2


@pytest.fixture(scope="module")
def work(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def results(work: Path) -> list[Result]:
    return run(NANO, work, SEEDS, examples=1)


def weights_of(arm: Arm, seed: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = arm.model(arm.recipe(NANO, seed, 2)).state_dict()
    return state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[key]) for key, value in one.items())


def first_batch(arm: Arm, work: Path, seed: int = 0) -> Any:
    recipe = arm.recipe(NANO, seed, 2)
    return Batches(train.encode(NANO, work), recipe.objective, 2).take(1)


# ---------------------------------------------------------------- the older form of a condition


def test_every_number_of_a_place_is_in_one_of_its_tokens_and_the_mask_in_both() -> None:
    tokens = torch.randn(2, 5, 448)
    noise, condition = in_sequence(tokens).chunk(2, dim=1)
    mask = torch.zeros(448)
    mask[-256:] = 1
    assert torch.equal(noise + condition, tokens * (1 + mask))
    assert torch.equal(noise[..., :64], tokens[..., :64])
    assert torch.equal(condition[..., 64:192], tokens[..., 64:192])
    assert not noise[..., 64:192].any()


def test_the_transformer_sees_twice_the_tokens_and_answers_for_the_noise(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BY_NAME["sequence"].model(BY_NAME["sequence"].recipe(NANO, 0, 2))
    seen: list[tuple[torch.Size, torch.Tensor]] = []
    model.transformer.x_embedder.register_forward_hook(
        lambda _, args, out: seen.append((args[0].shape, out))
    )
    model.transformer.pos_embed.register_forward_pre_hook(
        lambda _, args: seen.append((args[0].shape, args[0]))
    )
    batch, noise, sigma = first_batch(BY_NAME["sequence"], work)
    tokens = batch.target_BCHW.shape[2] * batch.target_BCHW.shape[3] // 4
    value, _ = objective.loss(model, batch, noise, sigma, NANO.objective)
    value.backward()
    (embedded, _), (_, ids) = seen
    assert embedded == (2, 2 * tokens, 448)
    places = ids[-2 * tokens :]
    assert torch.equal(places[:tokens, 1:], places[tokens:, 1:])
    assert places[:tokens, 0].eq(0).all()
    assert places[tokens:, 0].eq(1).all()
    with torch.no_grad():  # what is told in the condition tokens changes the answer
        other = batch.take(np.arange(2))
        other.edit_BCHW[...] += 1
        changed, _ = objective.loss(model, other, noise, sigma, NANO.objective)
    assert changed != value


# ---------------------------------------------------------------- a fair comparison


def test_arms_begin_as_the_same_numbers_and_seeds_as_others() -> None:
    paper = weights_of(PAPER, 0)
    assert all(same(paper, weights_of(arm, 0)) for arm in ARMS)
    assert not same(paper, weights_of(PAPER, 1))


def test_arms_see_the_same_latents_and_noise_and_seeds_see_others(work: Path) -> None:
    """Two stages see the same in the second half as one stage does."""
    batch, noise, sigma = first_batch(PAPER, work)
    for arm in ARMS:
        found = first_batch(arm, work)
        assert torch.equal(found[1], noise)
        assert torch.equal(found[2], sigma)
        assert np.array_equal(found[0].target_BCHW, batch.target_BCHW)
    assert not torch.equal(first_batch(PAPER, work, seed=1)[2], sigma)


def test_an_arm_changes_what_it_says_and_nothing_else() -> None:
    base = PAPER.recipe(NANO, 0, 2)
    assert base.objective.stage_1_share == 0.5
    for arm in ARMS:
        recipe = arm.recipe(NANO, 0, 2)
        assert recipe.model_copy(update={"name": base.name, "objective": base.objective}) == base
        changed = recipe.objective.model_dump().items() - base.objective.model_dump().items()
        assert dict(changed) == arm.objective


# ---------------------------------------------------------------- all of it


@pytest.mark.thorough
def test_every_arm_is_trained_and_answers(work: Path, results: list[Result]) -> None:
    assert {(each.arm, each.seed) for each in results} == {
        (arm.name, seed) for arm in ARMS for seed in range(SEEDS)
    }
    tasks = train.tasks_of(NANO)
    assert set(tasks) == {"recolour", "reference", "try_on"}
    for each in results:
        factor = 2 if BY_NAME[each.arm].sequence else 1
        assert each.tokens == (16 * factor, 32 * factor)
        assert [line.task for line in each.lines] == [*tasks, "overall"]
        assert each.cpu_s > each.half_s > 0
        assert each.losses.keys() == {*(f"held_{task}" for task in tasks), "0-ref", "N-ref"}
        with np.load(work / f"{each.arm}-{each.seed}" / "pictures.npz") as kept:
            assert all(kept[task].shape == (1, 64, 64, 3) for task in tasks)
    learnt = {each.weights for each in results if not BY_NAME[each.arm].same_seconds}
    assert len(learnt) == SEEDS * 4


def test_what_is_done_is_not_done_again(
    work: Path, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        pytest.fail("trained again")

    monkeypatch.setattr(train, "train", never)
    assert run(NANO, work, SEEDS, examples=1) == results


def test_cut_in_the_middle_it_ends_as_the_same(
    work: Path, results: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, shapes = PAPER.recipe(NANO, 0, 2), train.encode(NANO, work)
    held_back = train.encode_held_back(NANO, work, count=1)
    whole = objective.loss
    calls: list[int] = []

    def cut(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # a step, what is held back of three tasks, and the next step
            raise KeyboardInterrupt
        return whole(*args)

    tasks = len(held_back)
    monkeypatch.setattr(objective, "loss", cut)
    assert tasks == 3
    with pytest.raises(KeyboardInterrupt):
        train.train(PAPER, recipe, shapes, held_back, tmp_path)
    assert [each["step"] for each in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    loop = train.train(PAPER, recipe, shapes, held_back, tmp_path)
    assert loop.step == 2
    found = read_metrics(tmp_path / "metrics.jsonl")
    expected = read_metrics(work / "paper-0" / "metrics.jsonl")
    for one, other in zip(found, expected, strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == other["loss"]
    assert found[1]["cpu_s"] > found[0]["cpu_s"]


def test_the_table_has_spreads_and_differences_seed_by_seed(
    results: list[Result], work: Path
) -> None:
    shifted = [
        each.model_copy(update={"losses": {"0-ref": loss, "N-ref": loss}})
        for each in results
        for loss in ((each.seed if each.arm == "paper" else 3 * each.seed + 0.5),)
    ]
    text = report.tables(shifted)
    assert "| held-back L_tar, 0-ref | 0.500 ± 0.707 | 2.000 ± 2.121 |" in text
    assert "less the paper's: held-back L_tar, N-ref |  | +1.500 ± 1.000 |" in text
    assert "| 16 / 32 | 16 / 32 | 16 / 32 | 32 / 64 | 32 / 64 |" in text
    assert (work / "ablation.md").read_text() == report.tables(results)


def test_equal_seconds_are_fewer_steps(results: list[Result]) -> None:
    slow = [
        each.model_copy(update={"cpu_s": 10.0 if each.arm == "paper" else 16.0}) for each in results
    ]
    assert steps_of(BY_NAME["sequence-s"], 800, slow) == 500
    assert steps_of(BY_NAME["sequence"], 800, slow) == 800


def test_the_committed_recipe_learns_tasks_with_and_without_references() -> None:
    nano = Recipe.read("nano")
    assert {"background", "recolour", "reference", "try_on"} <= set(train.tasks_of(nano))
    assert nano.objective.stage_1_share == 0.5
