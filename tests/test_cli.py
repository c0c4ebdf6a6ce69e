"""`ace-catalog` as an engineer runs it. If these break, a script around it takes a partial run for
a good one, or the published schema is not the one rows are checked by."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.specs import row_schema
from ace_tasks.store import Store, join_uri
from flows.cli.catalog import plan
from flows.cli.editing import edit
from flows.parameters import pixel_settings
from infra.prefect_server import PrefectServer
from infra.services import script


def ace(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script("ace-catalog"), *arguments],
        env=os.environ | {"COLUMNS": "200"} | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Callable[..., bytes]) -> str:
    image = join_uri(prefix, "in/a.png")
    store.put(image, picture(), "image/png")
    row = {"id": "a", "task": "edit", "image": image, "prompt": "p", "steps": 1}
    text = json.dumps(row) + "\n" + json.dumps(row | {"id": "b", "steps": "many"}) + "\n"
    store.put(join_uri(prefix, "catalog.jsonl"), text.encode(), "text/plain")
    return join_uri(prefix, "catalog.jsonl")


def test_schema_is_the_published_one(tmp_path: Path) -> None:
    assert json.loads(ace("schema").stdout) == row_schema()
    stale = tmp_path / "schema.json"
    stale.write_text("{}")
    assert ace("schema", "--check", str(stale)).returncode == 1
    assert ace("schema", "--write", str(stale)).returncode == 0
    assert ace("schema", "--check", str(stale)).returncode == 0


def test_plan_says_what_is_wrong_and_writes_nothing(
    catalog: str, store: Store, prefix: str
) -> None:
    before = [each.uri for each in store.list(prefix)]
    run = ace("plan", catalog, "--variant", "toy", "--output", f"{prefix}/out")
    assert run.returncode == 1, run.stderr
    assert "1 rows planned, 1 rejected; 0 items done before, 0 failed" in run.stdout
    assert "steps" in run.stdout
    assert "'many'" in run.stdout
    assert [each.uri for each in store.list(prefix)] == before


def test_a_control_that_needs_a_model_waits_for_the_environment_to_name_one(
    catalog: str, store: Store, prefix: str, tmp_path: Path
) -> None:
    """Planning reads the list of its files only: there need be no weights here."""
    row = {"id": "a", "task": "edit", "image": f"{prefix}/in/a.png", "prompt": "p"}
    store.put(catalog, json.dumps(row | {"control": "depth"}).encode(), "text/plain")
    (tmp_path / "sha256.json").write_text(json.dumps({"model.safetensors": "0" * 64}))
    without = ace("plan", catalog, "--variant", "toy")
    assert (without.returncode, "'depth' needs a model" in without.stdout) == (1, True)
    named = ace("plan", catalog, "--variant", "toy", ACE_DEPTH_MODEL=str(tmp_path))
    assert (named.returncode, "1 rows planned, 0 rejected" in named.stdout) == (0, True)


def test_plan_counts_what_an_edit_with_the_same_options_has_done(
    catalog: str, prefix: str, prefect_server: PrefectServer, weights_dir: Path
) -> None:
    """Presets and qualities are part of what an item is; without them it is another one."""
    output, options = f"{prefix}/out", ["--preset", "white-1000", "--quality", "80"]
    run = ace("edit", catalog, output, "--variant", "toy", "--max-failed", "1", *options)
    assert run.returncode == 0, run.stderr
    told = ace("plan", catalog, "--variant", "toy", "--output", output, *options)
    assert "1 items done before" in told.stdout
    other = ace("plan", catalog, "--variant", "toy", "--output", output)
    assert "0 items done before" in other.stdout


def test_plan_and_edit_take_all_that_decides_a_pixel() -> None:
    decides = signature(pixel_settings).parameters.keys()
    assert decides <= signature(edit).parameters.keys() & signature(plan).parameters.keys()


@pytest.fixture
def masked(catalog: str, store: Store, prefix: str, picture: Callable[..., bytes]) -> str:
    """A catalog of four rows: a good one, one with a mask of another size, an empty box after its
    steps, and one that is no valid spec."""
    store.put(join_uri(prefix, "in/small.png"), picture(64, 64), "image/png")
    row = {"task": "fill", "image": join_uri(prefix, "in/a.png"), "prompt": "p"}
    box = {"box": [10, 10, 20, 20]}
    rows = [
        row | {"id": "good", "mask": box},
        row | {"id": "size", "mask": join_uri(prefix, "in/small.png")},
        row | {"id": "empty", "mask": box, "mask_grow": -9},
        row | {"id": "wrong", "mask": box, "steps": "many"},
    ]
    text = "".join(json.dumps(each) + "\n" for each in rows)
    store.put(join_uri(prefix, "masked.jsonl"), text.encode(), "text/plain")
    return join_uri(prefix, "masked.jsonl")


def test_a_look_says_of_each_row_what_would_fail(masked: str) -> None:
    told = ace("plan", masked, "--variant", "toy", "--look")
    assert told.returncode == 1, told.stderr
    assert "3 rows looked at: 2 with a problem, 0 with a hint" in told.stdout
    assert "given 64×64" in told.stdout
    assert "selects no pixel" in told.stdout
    assert "'many'" in told.stdout


def test_a_machine_gets_a_line_of_json_for_each_row_and_nothing_else(masked: str) -> None:
    run = ace("plan", masked, "--variant", "toy", "--look", "--json", "--allow-empty-masks")
    assert run.returncode == 1, run.stderr
    told = {each["line"]: each for each in map(json.loads, run.stdout.splitlines())}
    assert told.keys() == {1, 2, 3, 4}
    assert [line for line, each in sorted(told.items()) if each["problem"]] == [2, 4]
    assert told[1]["coverage"] == round(100 / (96 * 64), 6)
    assert told[3]["coverage"] == 0
    assert told[4]["problem"].startswith("bad_row: steps: ")
    alone = ace("plan", masked, "--variant", "toy", "--json")
    assert alone.returncode == 1
    assert json.loads(alone.stdout) == {
        "planned": 3, "rejected": 1, "forgotten": 0, "shared": 0, "by_task": {"fill": 3},
    }  # fmt: skip


def test_a_fatal_error_is_one_line_and_exit_code_2(prefix: str) -> None:
    run = ace("plan", f"{prefix}/nothing.jsonl", "--variant", "toy")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "no such catalog" in run.stderr
    assert "Traceback" not in run.stderr


def test_edit_says_what_was_done_and_its_exit_code_tells(
    catalog: str, prefix: str, prefect_server: Any, weights_dir: Path
) -> None:
    run = ace("edit", catalog, f"{prefix}/out", "--variant", "toy")
    assert run.returncode == 1, run.stderr
    assert "2 rows: 0 done before, 1 to do, 1 rejected" in run.stdout
    assert "FinishedWithFailures: 1 done, 0 done before, 1 rejected, of 2 rows" in run.stdout
    assert "results.csv" in run.stdout
    again = ace("edit", catalog, f"{prefix}/out", "--variant", "toy", "--max-failed", "1")
    assert again.returncode == 0, again.stderr
    assert "2 rows: 1 done before, 0 to do, 1 rejected" in again.stdout
    strict = ace("edit", catalog, f"{prefix}/out", "--variant", "toy", "--strict")
    assert strict.returncode == 2
    assert "strict is set" in strict.stderr


def test_a_restyle_tells_a_machine_its_summary_and_status_tells_it_again(
    catalog: str, store: Store, prefix: str, prefect_server: Any, weights_dir: Path
) -> None:
    output = f"{prefix}/out"
    assert ace("status", output).stdout == f"no runs under {output}\n"
    options = ["--prompt", "p", "--variant", "toy", "--steps", "1", "--json"]
    run = ace("restyle", f"{prefix}/in", output, *options)
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    assert (summary["done"], summary["flow"], summary["state"]) == (
        1,
        "restyle-catalog",
        "Completed",
    )

    store.put(f"{output}/runs/cut-short/plan.parquet", b"x", "text/plain")
    told = ace("status", output)
    assert told.returncode == 0, told.stderr
    ended, cut = sorted(told.stdout.splitlines(), key=lambda line: "cut-short" in line)
    assert "restyle-catalog Completed             1 done, 0 done before, of 1 rows" in ended
    assert "not ended, or cut short" in cut
    lines = [json.loads(line) for line in ace("status", output, "--json").stdout.splitlines()]
    assert {each["run_id"]: each["state"] for each in lines} == {
        summary["run_id"]: "Completed", "cut-short": None,
    }  # fmt: skip
    one = ace("status", output, summary["run_id"], "--json")
    assert summary.items() <= json.loads(one.stdout).items()
    none = ace("status", output, "no-run")
    assert (none.returncode, "run: no-run has no summary" in none.stderr) == (2, True)


def test_a_try_on_says_how_many_pairs_it_would_be_and_stops(
    tmp_path: Path, prefix: str, object_store: Any, prefect_server: Any, weights_dir: Path
) -> None:
    for name, count in (("people", 200), ("garments", 50)):
        rows = "".join(f"s3://tests/{name}/{number}.png\n" for number in range(count))
        (tmp_path / f"{name}.csv").write_text(f"image\n{rows}")
    places = [str(tmp_path / "people.csv"), str(tmp_path / "garments.csv"), f"{prefix}/out"]
    run = ace(
        "try-on", *places, "--variant", "toy", "--masks", "auto", "--auto-mask", "border", "--json"
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert "10,000 pairs" in run.stderr
    assert "at most 1,000" in run.stderr
