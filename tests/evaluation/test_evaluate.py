"""The evaluation: from a model to its table. If these break, a table says how good a model is that
was never asked, or asked otherwise than a catalog asks it; or a cut run starts from nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from ace_tasks.errors import Cancelled, SettingsError
from ace_tasks.evaluation.answer_sheet import PANELS, sheet
from ace_tasks.evaluation.baselines import BASELINES
from ace_tasks.evaluation.measure import (
    MAX_EXAMPLES,
    Answer,
    Answered,
    Chunk,
    chunks,
    evaluate_model,
    parse_tasks,
)
from ace_tasks.evaluation.report import OVERALL, Report, ReportLine, lines
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.training.preview import answer, example_edit, preview
from ace_tasks.training.world.world_tasks import ALL_TASKS, Example, draw_example
from flows.evaluate import evaluate
from flows.steps.evaluate import _markdown
from infra.services import ROOT
from tests.support.grouped import grouped
from tests.support.patience import limit_s, wait_until
from tests.support.processes import ace_here

EXAMPLES = 40  # of each task: three chunks


@pytest.fixture(scope="module")
def models(weights_dir: Path) -> dict[str, AceModel]:
    settings = WeightsSettings(folder=weights_dir)
    names = ("toy", "toy-lora")
    return {name: AceModel.load(find_variant(name), settings, "cpu") for name in names}


def truth(example: Example, number: int) -> np.ndarray:
    return example.target


def measured(answered: Answer, count: int = 6) -> list[ReportLine]:
    scores = {
        task: [each.scores for each in evaluate_model(answered, Chunk(task, 0, count).draw(3, 64))]
        for task in ALL_TASKS
    }
    return lines("it", "model", scores)


# ---------------------------------------------------------------- measuring


def test_the_truth_is_right_everywhere_and_tops_every_baseline() -> None:
    exact = measured(truth)
    assert [each.task for each in exact] == [*ALL_TASKS, OVERALL]
    assert {(each.success, each.psnr, round(each.ssim, 9)) for each in exact} == {
        (1.0, float("inf"), 1.0)
    }
    for name, baseline in BASELINES.items():
        for best, line in zip(exact, measured(lambda e, _, b=baseline: b(e)), strict=True):
            limit = 1 if (name, line.task) == ("inpaint", "remove") else 0.2
            assert line.success < limit, (name, line.task)
            assert line.psnr < 40, (name, line.task)
            assert line.ssim < best.ssim, (name, line.task)


def test_half_right_is_half_the_success() -> None:
    spoilt = measured(lambda e, n: e.target if n % 2 else 255 - e.target)
    assert {each.success for each in spoilt} == {0.5}


def test_inpainting_fills_the_mask_and_touches_nothing_else() -> None:
    better = 0
    for example in Chunk("remove", 0, 8).draw(1, 64).values():
        assert example.mask is not None
        filled = BASELINES["inpaint"](example)
        assert np.array_equal(filled[example.mask == 0], example.target[example.mask == 0])
        assert not np.array_equal(filled, example.image)
        errors = [
            np.abs(each.astype(float) - example.target).mean()
            for each in (filled, BASELINES["mean_fill"](example))
        ]
        better += errors[0] < errors[1]
    assert better >= 7


def test_a_picture_of_another_size_is_refused_with_both_sizes() -> None:
    examples = Chunk("add", 0, 1).draw(1, 64)
    with pytest.raises(ValueError, match=r"\(64, 64, 3\).*given .*\(64, 34, 3\)"):
        evaluate_model(lambda e, _: e.target[:, 30:], examples)


def test_a_task_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"accepted: inpaint, .*try_on; given 'sing'"):
        parse_tasks("add, sing")
    assert parse_tasks("try_on, add,") == ("add", "try_on")
    assert parse_tasks(" ") == ALL_TASKS


def test_chunks_hold_every_held_back_example_once() -> None:
    found = chunks(("add", "remove"), 37, 16)
    assert [(each.first, each.count) for each in found[:3]] == [(0, 16), (16, 16), (32, 5)]
    assert len({each.name for each in found}) == len(found) == 6
    numbers = [n for each in found if each.task == "add" for n in each.draw(4, 64)]
    assert numbers == list(range(37))
    drawn = found[1].draw(4, 64)[20]
    start = MAX_EXAMPLES * ALL_TASKS.index("add")
    same = draw_example(4, start + 20, 64, split="test", tasks=("add",))
    assert np.array_equal(drawn.target, same.target)
    seen = draw_example(4, start + 20, 64, split="train", tasks=("add",))
    assert not np.array_equal(drawn.target, seen.target)


def test_no_two_tasks_share_their_scenes() -> None:
    """Else the error of a mean over tasks would be told too small."""
    scenes = [e.truth.after for task in ALL_TASKS for e in Chunk(task, 0, 4).draw(1, 64).values()]
    assert len({(each.x, each.y, each.light) for each in scenes if each.kind}) >= 25


def test_a_standard_error_is_never_nothing() -> None:
    """None of 64 right says less than 5 %, not exactly 0 %."""
    wrong = measured(lambda e, _: 255 - e.target, count=8)
    assert {each.success for each in wrong} == {0.0}
    assert wrong[0].success_se == pytest.approx((2 / 12 * 10 / 12 / 12) ** 0.5)
    assert wrong[-1].success_se == pytest.approx(wrong[0].success_se / 8**0.5)


# ---------------------------------------------------------------- a model's answers


def test_a_model_answers_beside_its_reference(models: dict[str, AceModel]) -> None:
    """The target alone, as it stands on the canvas: not a pixel of what lies left of it."""
    identity = models["toy"].identity
    assert identity is not None
    for task in ALL_TASKS:
        example = draw_example(1, 0, 64, split="test", tasks=(task,))
        picture = answer(models["toy"], example, 5)
        assert picture.shape == example.target.shape, task
        unit = example_edit(example, 5, identity).unit
        assert unit is not None
        (whole,) = models["toy"].generate([ModelJob(unit, example.prompt, 5, 4, 50.0)])
        assert np.array_equal(picture, whole[:, -64:]), task
        assert not np.array_equal(picture, answer(models["toy"], example, 6)), task


def test_an_example_is_asked_as_a_row_is(models: dict[str, AceModel]) -> None:
    """On the LoRA route a task has an adapter, and an edit loses half of what its mask covers."""
    identity = models["toy-lora"].identity
    assert identity is not None
    asked = {}
    for task in ALL_TASKS:
        example = draw_example(1, 0, 64, tasks=(task,))
        row = example_edit(example, 7, identity).resolved
        assert row.repainting_scale == example.scale(use_change=False)  # the canvas is built so
        assert (row.steps, row.guidance, row.seed) == (4, 50.0, 7)
        asked[task] = (row.task, row.adapter, row.repainting_scale)
    assert asked == {
        "inpaint": ("fill", "local_editing", 1.0),
        "recolour": ("edit", "local_editing", 0.5),
        "background": ("edit", "local_editing", 0.5),
        "remove": ("fill", "local_editing", 1.0),
        "add": ("fill", "local_editing", 1.0),
        "control": ("edit", "local_editing", 0.0),
        "reference": ("reference", "subject", 1.0),
        "try_on": ("try_on", "subject", 1.0),
    }
    example = draw_example(1, 0, 64, tasks=("try_on",))
    plain = preview(models["toy-lora"], example, seed=5)
    assert not np.array_equal(answer(models["toy-lora"], example, 5), plain)  # its adapter


def test_an_answer_can_be_stopped_between_two_steps(models: dict[str, AceModel]) -> None:
    """Else a cancelled evaluation of a large model holds its GPU for a picture more."""
    example, steps = draw_example(1, 0, 64, tasks=("add",)), []

    def stop_at_second() -> None:
        steps.append(1)
        if len(steps) == 3:  # the first call is before any step
            raise Cancelled("told to")

    with pytest.raises(Cancelled):
        answer(models["toy"], example, 5, stop_at_second)
    assert len(steps) == 3


# ---------------------------------------------------------------- for people


def a_report(**changes: Any) -> Report:
    found = {
        "variant": "s3://b/*mine*|<img src=x>",
        "model": find_variant("toy").identity(),
        "tasks": ALL_TASKS,
        "examples": 2,
        "seed": 1,
        "size_px": 64,
        "device": "cpu",
        "contenders": [
            {"name": "toy", "kind": "model", "fingerprint": "ab" * 32, "scores": "", "seconds": 1}
        ],
        "versions": {},
        "lines": measured(truth, 2),
    }
    return Report.model_validate(found | changes)


def test_an_infinite_psnr_is_valid_json_and_comes_back() -> None:
    text = a_report().model_dump_json()
    assert json.loads(text, parse_constant=pytest.fail)["lines"][0]["psnr"] == "Infinity"
    assert Report.model_validate_json(text) == a_report()


def test_nothing_in_the_report_is_active() -> None:
    rows = [{"contender": "[click](javascript:x)", "success": "<b>1</b>"}]
    text = _markdown(a_report(), rows)
    assert "<" not in text
    assert "*mine*" not in text.replace("\\*", "")
    assert "[click]" not in text
    assert "mine\\*\\|" in text  # else a bar makes a column


def test_the_sheet_shows_what_was_made_between_reference_and_truth() -> None:
    example = draw_example(1, 0, 64, tasks=("try_on",))
    (black, white) = (
        np.asarray(
            sheet([Answered(example, picture, evaluate_model(truth, {0: example})[0].scores)])
        )
        for picture in (np.zeros_like(example.target), np.full_like(example.target, 255))
    )
    columns = np.flatnonzero((black != white).any(axis=(0, 2)))
    place = PANELS.index("result") / len(PANELS)
    assert columns.min() / black.shape[1] == pytest.approx(place, abs=0.02)
    assert columns.max() / black.shape[1] == pytest.approx(place + 1 / len(PANELS), abs=0.02)


# ---------------------------------------------------------------- the flow


@pytest.fixture
def server(prefect_server: Any, object_store: Any, weights_dir: Path, one_thread: None) -> None:
    """What every flow needs."""


def run(output: str, **parameters: Any) -> Any:
    settings: dict[str, Any] = {"variant": "toy", "size_px": 64, "examples": EXAMPLES} | parameters
    return evaluate(output=output, return_state=True, **grouped(evaluate, **settings))


class Command:
    """`ace-catalog evaluate` in a process group of its own."""

    def __init__(self, output: str):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.cli",
                "evaluate",
                "toy",
                output,
                "--size-px",
                "64",
                "--examples",
                str(EXAMPLES),
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for_chunks(self, store: Store, output: str, count: int) -> dict[str, Any]:
        """Until so many are written; which, and when."""

        def are_there() -> dict[str, Any]:
            assert self.process.poll() is None, self.process.communicate()[0]
            found = written(store, output)
            return found if len(found) >= count else {}

        return wait_until(are_there, f"{count} chunks", every_s=0.05)


def written(store: Store, output: str) -> dict[str, Any]:
    """Chunks of scores, and when each was written."""
    found = store.list(join_uri(output, "chunks/"))
    return {each.uri: each.modified for each in found if each.uri.endswith(".json")}


def artifacts(state: Any) -> Iterator[Any]:
    async def read() -> list[Any]:
        run_id = state.state_details.flow_run_id
        async with get_client() as client:
            return list(
                await client.read_artifacts(
                    artifact_filter=ArtifactFilter(
                        flow_run_id=ArtifactFilterFlowRunId(any_=[run_id])
                    )
                )
            )

    return iter(asyncio.run(read()))


@pytest.mark.thorough
def test_cancelled_and_killed_it_goes_on_where_it_was(
    server: None, store: Store, prefix: str
) -> None:
    command = Command(prefix)
    command.wait_for_chunks(store, prefix, 2)
    child = psutil.Process(command.process.pid)
    family = [child, *child.children(recursive=True)]
    os.killpg(command.process.pid, signal.SIGTERM)  # as a process worker does
    command.process.wait(limit_s())
    _, alive = psutil.wait_procs(family, timeout=limit_s())
    assert [each.pid for each in alive] == []
    cancelled = written(store, prefix)
    assert 2 <= len(cancelled) < 3 * len(ALL_TASKS)  # in the midst of the model

    command = Command(prefix)
    command.wait_for_chunks(store, prefix, len(cancelled) + 2)
    command.process.kill()
    command.process.wait()
    killed = written(store, prefix)
    assert len(killed) < 3 * len(ALL_TASKS)

    state = run(prefix)
    assert state.name == "Completed", state.message
    done = written(store, prefix)
    assert len(done) == 4 * 3 * len(ALL_TASKS)  # the toy and three without a model
    assert cancelled.items() <= killed.items() <= done.items()  # nothing was measured again
    check_report(store, prefix)
    check_artifacts(state)

    state = run(prefix, examples=EXAMPLES + 8, tasks="add", baselines=False)
    more = written(store, prefix)
    assert done.items() <= more.items()
    assert {uri.rpartition("/")[2] for uri in more.keys() - done.keys()} == {"add-00032-16.json"}


def check_report(store: Store, output: str) -> None:
    data = json.loads(store.get(join_uri(output, "evaluation.json")))
    report = Report.model_validate(data)
    assert (report.variant, report.seed, report.size_px) == ("toy", 1, 64)
    assert report.contenders[0].fingerprint == find_variant("toy").identity().fingerprint
    assert [(each.name, each.kind) for each in report.contenders] == [
        ("toy", "model"),
        *((name, "baseline") for name in BASELINES),
    ]
    assert len(report.lines) == 4 * (len(ALL_TASKS) + 1)
    for each in report.lines:
        tasks = len(ALL_TASKS) if each.task == OVERALL else 1
        assert each.examples == tasks * EXAMPLES
    toy = {each.task: each for each in report.lines if each.kind == "model"}
    assert toy[OVERALL].success < 0.05  # random weights
    assert toy[OVERALL].psnr < 15
    # The very numbers: measured here once more, from the world and the baseline alone.
    again = [
        each.scores
        for chunk in chunks(("remove",), EXAMPLES, EXAMPLES)
        for each in evaluate_model(lambda e, _: BASELINES["inpaint"](e), chunk.draw(1, 64))
    ]
    (expected, _) = lines("inpaint", "baseline", {"remove": again})
    assert expected in report.lines
    text = store.get(join_uri(output, "evaluation.md")).decode()
    assert "mean\\_fill" in text
    assert "![samples](samples.png)" in text
    assert store.get(join_uri(output, "samples.png")).startswith(b"\x89PNG")


def check_artifacts(state: Any) -> None:
    found = {str(each.key): each for each in artifacts(state)}
    assert found.keys() == {"evaluate-measure-progress", "evaluate-scores", "evaluate-report"}
    assert found["evaluate-measure-progress"].data == 100.0
    table = json.loads(found["evaluate-scores"].data)
    assert [row["task"] for row in table[:4]] == ["overall"] * 4
    assert table[0]["contender"] == "toy"
    assert "samples.png?" in found["evaluate-report"].data  # presigned


@pytest.mark.thorough
def test_a_folder_will_do_and_the_command_prints_the_table(
    server: None, store: Store, tmp_path: Path
) -> None:
    output = tmp_path / "made" / "here"
    command = ace_here(
        "evaluate",
        "toy-lora",
        str(output),
        "--size-px",
        "64",
        "--examples",
        "1",
        "--tasks",
        "try_on,remove",
        "--seed",
        "9",
    )
    assert command.returncode == 0, command.stderr
    assert "Completed: toy-lora: 0.0 ±" in command.stdout
    for phrase in ("copy_input (baseline)", "toy (baseline)", "outside error", "evaluation.json"):
        assert phrase in command.stdout
    report = Report.model_validate_json((output / "evaluation.json").read_bytes())
    assert report.tasks == ("remove", "try_on")
    assert [each.name for each in report.contenders] == ["toy-lora", "toy", *BASELINES]
    left = {each.name for each in output.iterdir()}
    assert left == {"chunks", "evaluation.json", "evaluation.md", "samples.png"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "grand"}, "variant: accepted: mini"),
        ({"variant": "ace-fft"}, "accept_license"),
        ({"tasks": "add,sing"}, "tasks: accepted: inpaint"),
        ({"size_px": 100}, "size_px: accepted: a multiple of 16, at least 64; given 100"),
        ({"output": "gs://bucket/x"}, "output: accepted: s3://bucket/prefix, or a folder"),
        ({"output": "s3://no-such-bucket/x"}, "no-such-bucket"),
        ({"output": "/dev/null/x"}, "cannot write under /dev/null/x"),
    ],
    ids=["variant", "license", "tasks", "size", "output", "bucket", "folder"],
)
def test_what_cannot_run_says_why_at_once(
    server: None, prefix: str, change: dict[str, Any], message: str
) -> None:
    state = run(**{"output": prefix} | change)
    assert state.is_failed()
    with pytest.raises(Exception, match=message):
        state.result()
