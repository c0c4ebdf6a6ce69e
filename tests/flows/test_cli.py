"""`ace-catalog` as an engineer runs it. If these break, a script around it takes a partial run for
a good one, or the published schema is not the one rows are checked by."""

from __future__ import annotations

import io
import json
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from ace_tasks.specs import row_schema
from ace_tasks.store import Store, join_uri
from flows.cli import terminal
from flows.cli.catalog import plan
from flows.cli.editing import edit
from flows.cli.terminal import _HarmlessConsole, counting, line
from flows.options.groups import groups_of
from infra.services import script
from tests.support.processes import ace_here, run


def ace_alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    return run([script("ace-catalog"), *arguments], {"COLUMNS": "240"}, accept=(0, 1, 2))


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Callable[..., bytes]) -> str:
    image = join_uri(prefix, "in/a.png")
    store.put(image, picture(), "image/png")
    row = {"id": "a", "task": "edit", "image": image, "prompt": "p", "steps": 1}
    text = json.dumps(row) + "\n" + json.dumps(row | {"id": "b", "steps": "many"}) + "\n"
    store.put(join_uri(prefix, "catalog.jsonl"), text.encode(), "text/plain")
    return join_uri(prefix, "catalog.jsonl")


def test_schema_is_the_published_one(tmp_path: Path) -> None:
    assert json.loads(ace_here("schema").stdout) == row_schema()
    stale = tmp_path / "schema.json"
    stale.write_text("{}")
    assert ace_here("schema", "--check", str(stale)).returncode == 1
    assert ace_here("schema", "--write", str(stale)).returncode == 0
    assert ace_here("schema", "--check", str(stale)).returncode == 0


def test_plan_says_what_is_wrong_and_writes_nothing(
    catalog: str, store: Store, prefix: str
) -> None:
    before = [each.uri for each in store.list(prefix)]
    ended = ace_here("plan", catalog, "--variant", "toy", "--output", f"{prefix}/out")
    assert ended.returncode == 1, ended.stderr
    assert "1 row planned, 1 rejected; 0 items done before, 0 failed" in ended.stdout
    assert "steps" in ended.stdout
    assert "'many'" in ended.stdout
    assert [each.uri for each in store.list(prefix)] == before


def test_a_control_that_needs_a_model_waits_for_the_environment_to_name_one(
    catalog: str, store: Store, prefix: str, tmp_path: Path
) -> None:
    """Planning reads the list of its files only: there need be no weights here."""
    row = {"id": "a", "task": "edit", "image": f"{prefix}/in/a.png", "prompt": "p"}
    store.put(catalog, json.dumps(row | {"control": "depth"}).encode(), "text/plain")
    (tmp_path / "sha256.json").write_text(json.dumps({"model.safetensors": "0" * 64}))
    without = ace_here("plan", catalog, "--variant", "toy")
    assert (without.returncode, "'depth' needs a model" in without.stdout) == (1, True)
    named = ace_here("plan", catalog, "--variant", "toy", ACE_DEPTH_MODEL=str(tmp_path))
    assert (named.returncode, "1 row planned, 0 rejected" in named.stdout) == (0, True)


def test_plan_counts_what_an_edit_with_the_same_options_has_done(
    catalog: str, prefix: str, replicas_here: None
) -> None:
    """Presets and qualities are part of what an item is; without them it is another one."""
    output, options = f"{prefix}/out", ["--preset", "white-1000", "--quality", "80"]
    ended = ace_here("edit", catalog, output, "--variant", "toy", "--max-failed", "1", *options)
    assert ended.returncode == 0, ended.stderr
    ended = ace_here("plan", catalog, "--variant", "toy", "--output", output, *options)
    assert "1 item done before" in ended.stdout
    other = ace_here("plan", catalog, "--variant", "toy", "--output", output)
    assert "0 items done before" in other.stdout


def test_plan_and_edit_take_all_that_decides_a_pixel() -> None:
    edits, plans = groups_of(edit), groups_of(plan)
    assert {name: edits[name] for name in ("pixels", "masking")} == plans


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["edit", "c", "o", "--variant", "toy", "--typo", "1"], "Unknown option: --typo"),
        (
            ["edit", "c", "o", "--variant", "toy", "--candidates", "40"],
            "--candidates: Input should be less than or equal to 16; given '40'",
        ),
        (
            ["edit", "c", "o", "--variant", "toy", "--geometry", "round"],
            "--geometry: Input should be 'catalog' or 'reference'; given 'round'",
        ),
        (["edit", "c", "o", "--variant", "toy", "--canary", "3"], "Unknown option: --canary"),
        (["edit", "c", "o"], "--variant requires an argument"),
        (["audit", "s3://b/out", "../run"], "RUN: String should match pattern"),
        (["audit", "s3://b/out", "run", "--sample", "-4"], "--sample: Input should be greater"),
        (["paint"], 'Unknown command "paint"'),
    ],
    ids=["flag", "limit", "choice", "form-only", "missing", "argument", "number", "command"],
)
def test_a_mistyped_command_says_what_is_accepted(arguments: list[str], problem: str) -> None:
    ended = ace_here(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert problem in ended.stderr
    assert f"see: ace-catalog{'' if arguments == ['paint'] else f' {arguments[0]}'} --help" in (
        ended.stderr
    )
    assert ended.stderr.count("\n") == 2


def test_a_command_alone_shows_what_there_is_and_did_nothing() -> None:
    ended = ace_here()
    assert ended.returncode == 2
    assert "try-on" in ended.stdout


def test_values_may_begin_with_a_hyphen(
    catalog: str, store: Store, prefix: str, replicas_here: None
) -> None:
    options = ["--prompt", "-20 % light", "--seed", "-1", "--variant", "toy", "--steps", "1"]
    ended = ace_here("restyle", f"{prefix}/in", f"{prefix}/out", *options)
    assert ended.returncode == 0, ended.stderr
    (record,) = [store.get(each.uri) for each in store.list(f"{prefix}/out/records/")]
    assert json.loads(record)["spec"]["prompt"] == "-20 % light"


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
    ended = ace_here("plan", masked, "--variant", "toy", "--look")
    assert ended.returncode == 1, ended.stderr
    assert "3 rows looked at: 2 with a problem, 0 with a hint" in ended.stdout
    assert "given 64×64" in ended.stdout
    assert "selects no pixel" in ended.stdout
    assert "'many'" in ended.stdout


def test_a_machine_gets_a_line_of_json_for_each_row_and_nothing_else(masked: str) -> None:
    ended = ace_here("plan", masked, "--variant", "toy", "--look", "--json", "--allow-empty-masks")
    assert ended.returncode == 1, ended.stderr
    by_line = {each["line"]: each for each in map(json.loads, ended.stdout.splitlines())}
    assert by_line.keys() == {1, 2, 3, 4}
    assert [line for line, each in sorted(by_line.items()) if each["problem"]] == [2, 4]
    assert by_line[1]["coverage"] == round(100 / (96 * 64), 6)
    assert by_line[3]["coverage"] == 0
    assert by_line[4]["problem"].startswith("bad_row: steps: ")
    alone = ace_here("plan", masked, "--variant", "toy", "--json")
    assert alone.returncode == 1
    assert json.loads(alone.stdout) == {
        "planned": 3,
        "rejected": 1,
        "forgotten": 0,
        "shared": 0,
        "by_task": {"fill": 3},
    }


def test_a_fatal_error_is_one_line_and_exit_code_2(store: Store, prefix: str) -> None:
    ended = ace_alone("plan", f"{prefix}/nothing.jsonl", "--variant", "toy")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "no such catalog" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_edit_says_what_was_done_and_its_exit_code_shows_it(
    catalog: str, prefix: str, replicas_here: None
) -> None:
    """The first time with everything as it is: a process of its own, and Ray's."""
    ended = ace_alone("edit", catalog, f"{prefix}/out", "--variant", "toy")
    assert ended.returncode == 1, ended.stderr
    assert "2 rows: 0 done before, 1 to do, 1 rejected" in ended.stdout
    assert "FinishedWithFailures: 1 done, 0 done before, 1 rejected, of 2 rows" in ended.stdout
    assert "results.csv" in ended.stdout
    again = ace_here("edit", catalog, f"{prefix}/out", "--variant", "toy", "--max-failed", "1")
    assert again.returncode == 0, again.stderr
    assert "2 rows: 1 done before, 0 to do, 1 rejected" in again.stdout
    strict = ace_here("edit", catalog, f"{prefix}/out", "--variant", "toy", "--strict")
    assert strict.returncode == 2
    assert "strict is set" in strict.stderr


def test_a_restyle_gives_a_machine_its_summary_and_status_gives_it_again(
    catalog: str, store: Store, prefix: str, replicas_here: None
) -> None:
    output = f"{prefix}/out"
    assert ace_here("status", output).stdout == f"no runs under {output}\n"
    options = ["--prompt", "p", "--variant", "toy", "--steps", "1", "--json"]
    ended = ace_here("restyle", f"{prefix}/in", output, *options)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert (summary["done"], summary["flow"], summary["state"]) == (
        1,
        "restyle-catalog",
        "Completed",
    )

    store.put(f"{output}/runs/cut-short/plan.parquet", b"x", "text/plain")
    ended = ace_here("status", output)
    assert ended.returncode == 0, ended.stderr
    ended, cut = sorted(ended.stdout.splitlines(), key=lambda line: "cut-short" in line)
    assert "restyle-catalog Completed             1 done, 0 done before, of 1 row" in ended
    assert "not ended, or cut short" in cut
    lines = [json.loads(line) for line in ace_here("status", output, "--json").stdout.splitlines()]
    assert {each["run_id"]: each["state"] for each in lines} == {
        summary["run_id"]: "Completed",
        "cut-short": None,
    }
    one = ace_here("status", output, summary["run_id"], "--json")
    assert summary.items() <= json.loads(one.stdout).items()
    none = ace_here("status", output, "no-run")
    assert (none.returncode, "run: no-run has no summary" in none.stderr) == (2, True)


def test_status_knows_what_edited_nothing(catalog: str, prefix: str, replicas_here: None) -> None:
    output, variant = f"{prefix}/out", ["--variant", "toy"]
    assert ace_here("edit", catalog, output, *variant, "--dry-run").returncode == 0
    assert ace_here("edit", catalog, output, *variant, "--strict").returncode == 2
    dry, strict = ace_here("status", output).stdout.splitlines()
    assert "DryRun" in dry
    assert "dry run: 1 item to do; nothing was edited" in dry
    assert "Refused" in strict
    assert "refused before anything was edited (CatalogError)" in strict
    runs = [json.loads(each) for each in ace_here("status", output, "--json").stdout.splitlines()]
    assert [each["state"] for each in runs] == ["DryRun", "Refused"]
    assert (runs[0]["items"], runs[1]["error"]) == (1, "CatalogError")
    one = ace_here("status", output, runs[0]["run_id"], "--json")
    assert json.loads(one.stdout) == runs[0]
    audit = ace_here("audit", output, runs[0]["run_id"])
    assert audit.returncode == 2
    assert "dry run: 1 item to do" in audit.stderr
    assert audit.stderr.startswith("auditing ")
    assert "?" not in audit.stderr


def test_a_try_on_says_how_many_pairs_it_would_be_and_stops(
    tmp_path: Path, prefix: str, replicas_here: None
) -> None:
    for name, count in (("people", 200), ("garments", 50)):
        rows = "".join(f"s3://tests/{name}/{number}.png\n" for number in range(count))
        (tmp_path / f"{name}.csv").write_text(f"image\n{rows}")
    places = [str(tmp_path / "people.csv"), str(tmp_path / "garments.csv"), f"{prefix}/out"]
    ended = ace_here(
        "try-on", *places, "--variant", "toy", "--masks", "auto", "--auto-mask", "border", "--json"
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "10,000 pairs" in ended.stderr
    assert "at most 1,000" in ended.stderr


# ---------------------------------------------------------------- what a terminal is told

HOSTILE = (
    "\x1b]0;pwned\x07\x1b[2J\x1b[1;31m\x9b2J\x85\r\x08\u202e\u2066\u200b\u2028\ufeff\x7f"
    "\nCompleted: 9 done[bold]x[/bold]"
)


def unseen(text: str) -> set[str]:
    """Characters that a terminal obeys, or nobody sees."""
    kinds = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    return {ascii(each) for each in text if unicodedata.category(each) in kinds} - {repr("\n")}


def test_no_catalog_speaks_to_the_terminal(
    store: Store, prefix: str, picture: Callable[..., bytes], replicas_here: None
) -> None:
    """In a column's name, an id, a file's name, a cell, and errors about each of them."""
    file = f"{prefix}/in/a\u202egnp\u0085\u200b[red].png"
    store.put(f"{prefix}/in/a.png", picture(), "image/png")
    row = {"id": "a", "task": "edit", "image": f"{prefix}/in/a.png", "prompt": "p", "steps": 1}
    rows = [
        row,
        row | {"id": "b", HOSTILE: 1},
        row | {"id": f"c{HOSTILE}"},
        row | {"id": "d", "image": file},
        row | {"id": "e", "format": HOSTILE},
        row | {"id": "f", "task": HOSTILE},
        row | {"id": "g", "image": f"s3://{HOSTILE}/x.png"},
    ]
    place = f"{prefix}/catalog.jsonl"
    store.put(place, "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    planned = ace_here("plan", place, "--variant", "toy")
    looked = ace_here("plan", place, "--variant", "toy", "--look", "--json")
    edited = ace_here("edit", place, f"{prefix}/out", "--variant", "toy", "--max-failed", "9")
    taken = ace_here("pictures", f"{prefix}/out", f"{prefix}/taken")
    for ended in (planned, looked, edited, taken):
        assert ended.stdout, ended.stderr
        for text in (ended.stdout, ended.stderr):
            assert unseen(text) == set()
            assert "\nCompleted: 9 done" not in text
    assert "\\x1b]0;pwned" in planned.stdout
    assert "a\\u202egnp\\x85\\u200b[red].png" in taken.stdout
    problems = [json.loads(each).get("problem") or "" for each in looked.stdout.splitlines()]
    assert any(HOSTILE in each for each in problems)  # JSON says the same in its own way
    assert edited.returncode == 0


def test_a_file_of_a_hostile_name_is_passed_over_harmlessly(
    store: Store, prefix: str, picture: Callable[..., bytes], replicas_here: None
) -> None:
    store.put(f"{prefix}/in/a.png", picture(), "image/png")
    for key in ("\u202e\x9b2J.gif", "b.tiff", "._a.png", "notes.txt", "e.svg"):
        store.put(f"{prefix}/in/{key}", b"x", "image/png")
    options = ["--prompt", "p", "--variant", "toy", "--steps", "1"]
    ended = ace_here("restyle", f"{prefix}/in", f"{prefix}/out", *options)
    assert ended.returncode == 0, ended.stderr
    assert unseen(ended.stdout + ended.stderr) == set()
    assert (
        "5 passed over: written by the system: '._a.png'; no picture: 'b.tiff', 'e.svg', "
        "'notes.txt' and 1 more\n"
    ) in ended.stdout
    assert "Completed: 1 done, 0 done before, of 1 row; 5 passed over" in ended.stdout


def test_whatever_is_printed_on_a_terminal_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a command forgets `line`: a table's head and cells, a progress bar, plain text."""
    shown = io.StringIO()
    console = _HarmlessConsole(file=shown, force_terminal=True, width=200, color_system="standard")
    table = Table(HOSTILE, "[bold]b[/bold]")
    table.add_row(HOSTILE, "x")
    console.print(table, Text(HOSTILE), HOSTILE, line(HOSTILE))
    monkeypatch.setattr(terminal, "err", console)
    assert list(counting(HOSTILE, [1], 1)) == [1]
    for spoken in (
        "\x1b]0",
        "\x1b[2J",
        "\x07",
        "\x08",
        "\x9b",
        "\x85",
        "\u202e",
        "\u200b",
        "\u2028",
    ):
        assert spoken not in shown.getvalue(), ascii(spoken)
    assert "\x1b[1m" in shown.getvalue()  # our own markup works


def test_a_feed_of_the_local_disk_is_reported_by_its_own_name(
    tmp_path: Path, prefix: str, replicas_here: None
) -> None:
    feed = tmp_path / "feed.csv"
    options = ["--prompt", "p", "--variant", "toy", "--dry-run"]

    def stopped(content: bytes) -> str:
        feed.write_bytes(content)
        ended = ace_here("restyle", str(feed), f"{prefix}/out", *options)
        assert ended.returncode == 2, ended.stdout
        assert "catalog.jsonl" not in ended.stderr
        return ended.stderr.strip()

    assert "feed.csv: no row has a picture (1 row without)" in stopped(b"Handle,Image Src\nmug,\n")
    assert "feed.csv: an empty file" in stopped(b"")
    assert "feed.csv: the header is not UTF-8 text; --encoding" in stopped("id,杯\n".encode("gbk"))
    options += ["--encoding", "klingon"]
    assert "encoding: accepted encodings: UTF-8" in stopped(b"id,image_link\n1,x\n")
