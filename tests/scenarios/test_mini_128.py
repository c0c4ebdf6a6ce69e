"""Training `mini` for larger pictures on a GPU, rehearsed here. If it breaks, the minutes of a GPU
are spent on a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ace_tasks.model import sources, weights
from ace_tasks.settings import WeightsSettings
from tests.benchmarks import mini_128


@pytest.mark.thorough
def test_it_draws_trains_exports_and_scores_in_the_time_that_it_has(tmp_path: Path) -> None:
    mini_128.main(
        ["--device=cpu", "--minutes=0.5", "--batch=2", "--examples=1", f"--out={tmp_path}"]
    )
    report = json.loads((tmp_path / "scores.json").read_text())
    assert set(report["scores"]) == {task for task, _ in mini_128.GOALS}
    assert {each["examples"] for each in report["scores"].values()} == {1}
    assert len(report["goals"]) == len(mini_128.GOALS) + 1
    settings = WeightsSettings(folder=tmp_path / "weights")
    variant = sources.open_variant(str(tmp_path / "variant"), settings)
    folder = weights.ensure(variant, settings)
    weights.verify(folder)
    assert (variant.name, variant.width_px) == ("mini", mini_128.SIDE_PX)
    story = json.loads((folder / "training.json").read_text())
    assert story["recipe"] == report["recipe"] | {"start_from": "mini"}
    assert story["steps_done"] >= 1
    mini = sources.open_variant("mini", settings)
    fingerprints = {sources.identify(each, settings).base for each in (variant, mini)}
    assert len(fingerprints) == 2  # something was learnt


def test_a_goal_is_met_at_its_limit_and_missed_below() -> None:
    parts = {"examples": 64, "": 80.0, "pattern": 70.0}
    scores = {task: dict(parts) for task, _ in mini_128.GOALS}
    lines = mini_128.judge(scores, mini_128.MOST_BYTES)
    assert [line.partition(":")[0] for line in lines] == ["met"] * (len(mini_128.GOALS) + 1)
    scores["try_on"]["pattern"] = 69.9
    lines = mini_128.judge(scores, mini_128.MOST_BYTES + 1)
    missed = [line for line in lines if line.startswith("missed")]
    assert [line.partition(":")[2].split(":")[0].strip() for line in missed] == [
        "try_on, pattern",
        "40 of at most 40 MB",
    ]
