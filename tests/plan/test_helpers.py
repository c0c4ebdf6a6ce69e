"""Test plans that several processes make together. If these break, an item of a long catalog gets
another id or place than in a short one, a killed process takes rows with it, or processes outlive a
cancelled run."""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_tasks.catalog.files import Reject, Row, read_rows, to_specs
from ace_tasks.catalog.overrides import NO_OVERRIDES, Overrides
from ace_tasks.errors import CatalogError, OutputRefused
from ace_tasks.model.variants import find_variant
from ace_tasks.plan import helpers
from ace_tasks.plan.helpers import Helpers
from ace_tasks.plan.identify import open_identities, refuse_unproved
from ace_tasks.plan.plan_file import Basis, PlanFiles, build_plan, read_plan
from ace_tasks.plan.row_work import RowWork
from ace_tasks.plan.spool import Spool, SpoolEntry
from ace_tasks.provenance.tombstones import NOTHING_FORGOTTEN, Tombstones, of_source
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import DEFAULT_PIXELS
from ace_tasks.store import Store, join_uri
from tests.support.patience import limit_s

MODEL = find_variant("toy").identity()
CATALOG = "s3://tests/catalog.jsonl"

Rows = Iterable[Row | Reject]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few rows a long catalog, and have one process help with it."""
    monkeypatch.setattr(helpers, "_ALONE_ROWS", 16)
    monkeypatch.setattr(helpers, "_number", lambda: 1)
    monkeypatch.setattr(helpers, "WINDOW", 16)


def in_many(monkeypatch: pytest.MonkeyPatch, *, few: bool) -> None:
    monkeypatch.setattr(helpers, "_ALONE_ROWS", 10**9 if few else 16)


def helping() -> list[psutil.Process]:
    """Return the processes that help this one to plan."""
    here = psutil.Process().children()
    return [each for each in here if any("plan.helpers" in part for part in each.cmdline())]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    assert helping() == []


# ---------------------------------------------------------------- the same plan


URIS = [f"s3://tests/no-such/{n}.png" for n in range(6)]
IMAGES = st.sampled_from([*URIS, "s3://elsewhere/i.png", "local.png", "", 7, "s3://tests/\n"])
COLUMNS = {
    "id": st.sampled_from(["a", "b", "ä", "", 12, "x" * 200]),
    "task": st.sampled_from(["fill", "edit", "edit", "try_on", "background", "paint", None]),
    "image": IMAGES,
    "prompt": st.sampled_from(["a wall", "ein Haus \u2028 ☃", "{p}", "", "x" * 3999]),
    "mask": st.sampled_from([URIS[0], "alpha", "auto", {"box": [0, 0, 0.5, 1]}, {"box": [1]}]),
    "reference": st.lists(IMAGES, max_size=2),
    "seed": st.sampled_from([0, 1, "2", -1]),
    "guidance": st.sampled_from([0.0, -0.0, 1e-7, "many", True]),
    "steps": st.sampled_from([1, 20, 10**9]),
    "colour": st.just("red"),
}
LIKELY = {"id", "task", "image", "prompt"}
CELLS = st.fixed_dictionaries(
    {name: COLUMNS[name] for name in sorted(LIKELY)},
    optional={name: each for name, each in COLUMNS.items() if name not in LIKELY},
)
LINES = st.lists(CELLS | st.just("not a row"), max_size=40)


def numbered(lines: list[Any]) -> list[Row | Reject]:
    return [
        Row(n, each) if isinstance(each, dict) else Reject(n, None, "unreadable", each)
        for n, each in enumerate(lines, start=1)
    ]


def work(overrides: Overrides = NO_OVERRIDES, forgotten: Tombstones = NOTHING_FORGOTTEN) -> RowWork:
    rules = to_specs([], CATALOG, None).rules
    return RowWork(rules, MODEL, DEFAULT_PIXELS, overrides, forgotten)


def contents(entries: Iterable[SpoolEntry], folder: Path) -> list[Any]:
    """Return what the entries tell of rows, and what is kept of them in files."""
    found = []
    for file, *facts, start, cells, stop in entries:
        data = (folder / f"rows-{file}").read_bytes()
        found.append((*facts, data[start:cells], pickle.loads(data[cells:stop])))
    return found


OVERRIDES = {
    "none": NO_OVERRIDES,
    "a prompt that is too long for some": Overrides(prompt="{prompt}, at dawn", seed=7),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_helpers_make_of_rows_what_one_process_makes(
    store: Store, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows of every kind: ids, texts, places of rows, reasons of rejects."""
    monkeypatch.setattr(helpers, "WINDOW", 7)
    done = work(OVERRIDES[name])
    with (
        closing(Spool(tmp_path)) as spool,
        open_identities(store) as identities,
        closing(Helpers(done, spool, 2)) as hands,
    ):

        @given(LINES)
        def compare(lines: list[Any]) -> None:
            asked: list[Any] = []

            def specs() -> Any:
                asked.append([])
                guard = lambda line, uris: asked[-1].append((line, uris))  # noqa: E731
                return replace(to_specs(numbered(lines), CATALOG, None), guard=guard)

            here = list(done.here(specs(), identities, spool.file))
            helped = list(hands.entries(specs(), identities))
            assert {each[0] for each in helped} <= {1, 2}
            spool.file.flush()
            assert contents(helped, tmp_path) == contents(here, tmp_path)
            assert asked[0] == asked[1]

        compare()
        assert len(helping()) == 2


def catalog(prefix: str, rows: int, seed: int = 0) -> list[Row | Reject]:
    """Return rows of which some are wrong, have an id of others, or ask for what others ask for."""
    pick = random.Random(seed)
    lines: list[Any] = []
    for n in range(rows):
        row: dict[str, Any] = {
            "id": f"row-{n}" if pick.random() < 0.9 else f"row-{pick.randrange(rows)}",
            "task": pick.choice(["edit", "fill", "try_on"]),
            "image": join_uri(prefix, f"in/{pick.randrange(40)}.png"),
            "prompt": pick.choice(["a wall", "a wall", "ein Dach ☃"]),
            "seed": pick.randrange(3),
            "mask": {"box": [0, 0, 0.5, pick.choice([0.5, 1])]},
            "reference": [join_uri(prefix, "in/reference.png")],
        }
        if row["task"] != "try_on":
            del row["reference"]
        row["steps"] = pick.choice([4, 8, "many"] if pick.random() < 0.2 else [4, 8])
        lines.append(row if pick.random() < 0.97 else "not a row")
    return numbered(lines)


def planned(
    rows: Rows,
    store: Store,
    folder: Path,
    forgotten: Tombstones = NOTHING_FORGOTTEN,
    output: str | None = None,
) -> tuple[bytes, str]:
    """Return the bytes of a plan, and its rejects."""
    folder.mkdir(exist_ok=True)
    files, specs = PlanFiles.within(folder), to_specs(rows, CATALOG, None)
    if output:
        specs = refuse_unproved(specs, store, output)
    build_plan(specs, Basis(MODEL), store, files, forgotten)
    return files.plan.read_bytes(), files.rejects.read_text()


@pytest.fixture
def sources(store: Store, prefix: str) -> str:
    """Write most of the pictures that catalogs name, and return the prefix."""
    with store.in_parallel(16) as pool:
        for n in range(36):
            pool.submit(store.put, join_uri(prefix, f"in/{n}.png"), b"%d" % n, "image/png")
    store.put(join_uri(prefix, "in/reference.png"), b"reference", "image/png")
    return prefix


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_plan_is_the_same_byte_for_byte(
    store: Store, sources: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """With doubles and shared items across chunks, wrong rows, and a source to stay forgotten."""
    info = store.head(join_uri(sources, "in/3.png"))
    forgotten = Tombstones(frozenset(of_source(info.sha256)))
    together = planned(watched(catalog(sources, 900, seed)), store, tmp_path / "a", forgotten)
    in_many(monkeypatch, few=True)
    alone = planned(catalog(sources, 900, seed), store, tmp_path / "b", forgotten)
    assert together == alone
    rows = [*read_plan(tmp_path / "a" / "plan.parquet")]
    assert [row for row in rows if row.same_as]
    assert len(rows) > 500
    rejects = [json.loads(line) for line in together[1].splitlines()]
    assert {each["field"] for each in rejects} == {"id", "steps", None}
    assert any(each.get("forgotten") for each in rejects)


def watched(rows: list[Row | Reject], at: int = 400, act: Any = None) -> Iterator[Row | Reject]:
    """Yield the rows. In their midst see that helpers are at work, and act on one of them."""
    for n, row in enumerate(rows):
        if n == at:
            found = helping()
            assert len(found) == helpers._number()
            if act:
                act(found[0])
        yield row


# ---------------------------------------------------------------- when they are there


@pytest.mark.usefixtures("many")
def test_a_short_catalog_starts_no_process(store: Store, sources: str, tmp_path: Path) -> None:
    started: list[psutil.Process] = []

    def rows() -> Iterator[Row | Reject]:
        yield from catalog(sources, 16)
        started.extend(helping())

    planned(rows(), store, tmp_path)
    assert started == []


CORES = {  # name: (affinity, limit of its group, helpers)
    "one core": (1, float("inf"), 0),
    "two cores": (2, float("inf"), 0),
    "a part of many": (64, 0.5, 0),
    "three of many": (64, 3.9, 1),
    "many": (64, float("inf"), 3),
}


@pytest.mark.parametrize("name", CORES)
def test_helpers_take_no_more_cores_than_there_are_to_spare(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, limit, expected = CORES[name]
    monkeypatch.setattr(helpers, "cpu_count", lambda: count)
    monkeypatch.setattr(helpers, "core_limit", lambda: limit)
    assert helpers._number() == expected


def test_a_process_of_one_core_plans_alone(
    store: Store, sources: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "_ALONE_ROWS", 16)
    started: list[psutil.Process] = []

    def rows() -> Iterator[Row | Reject]:
        yield from catalog(sources, 200)
        started.extend(helping())

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        planned(rows(), store, tmp_path)
    finally:
        os.sched_setaffinity(0, cores)
    assert started == []


# ---------------------------------------------------------------- when something breaks


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


@pytest.mark.usefixtures("many")
def test_what_a_killed_process_had_is_done_again(
    store: Store,
    sources: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(helpers, "_number", lambda: 2)  # the other one goes on
    with caplog.at_level(logging.WARNING, "ace_tasks.plan"):
        together = planned(watched(catalog(sources, 900), act=kill), store, tmp_path / "a")
    (warning,) = caplog.messages
    assert "ended (status -9); its rows are planned here" in warning
    in_many(monkeypatch, few=True)
    assert together == planned(catalog(sources, 900), store, tmp_path / "b")


@pytest.mark.usefixtures("many")
def test_processes_that_cannot_start_are_not_needed(
    store: Store,
    sources: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with caplog.at_level(logging.WARNING, "ace_tasks.plan"):
        together = planned(catalog(sources, 300), store, tmp_path / "a")
    assert all("did not start" in each for each in caplog.messages)
    assert len(caplog.messages) == 1
    in_many(monkeypatch, few=True)
    assert together == planned(catalog(sources, 300), store, tmp_path / "b")


class Interrupted(BaseException):
    """As Prefect's for SIGTERM."""


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("kind", [Interrupted, CatalogError])
def test_a_plan_that_is_cut_short_ends_its_processes(
    store: Store, sources: str, tmp_path: Path, kind: type[BaseException]
) -> None:
    found: list[psutil.Process] = []

    def fail(_: psutil.Process) -> None:
        found.extend(helping())
        raise kind("enough")

    with pytest.raises(kind, match="enough"):
        planned(watched(catalog(sources, 900), act=fail), store, tmp_path)
    assert not [each for each in found if each.is_running()]


def fails_either_way(
    monkeypatch: pytest.MonkeyPatch, plan: Callable[[], Any], error: type[Exception]
) -> str:
    """Return the text of the error, which is the same with helpers and without."""
    texts = []
    for few in (False, True):
        in_many(monkeypatch, few=few)
        with pytest.raises(error) as raised:
            plan()
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.usefixtures("many")
def test_of_two_errors_the_first_in_the_catalog_is_told(
    store: Store, sources: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that may not be named comes before the damaged end of the file."""
    output = join_uri(sources, "out")
    rows = [{"id": f"r{n}", "task": "edit", "image": f"{sources}/in/{n % 9}.png", "prompt": "p"}
            for n in range(4000)]  # fmt: skip
    rows[300]["image"] = join_uri(output, "images/mine.png")
    path = tmp_path / "catalog.jsonl.gz"
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
    path.write_bytes(packed[:-2000])

    def plan() -> None:
        planned(read_rows(path), store, tmp_path / "plan", output=output)

    text = fails_either_way(monkeypatch, plan, OutputRefused)
    assert "line 301 names" in text
    rows[300]["image"] = rows[0]["image"]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)
    path.write_bytes(packed[:-2000])
    assert "damaged gzip" in fails_either_way(monkeypatch, plan, CatalogError)


@pytest.mark.usefixtures("many")
def test_a_store_that_goes_away_stops_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = StoreSettings(endpoint_url="http://127.0.0.1:9", max_attempts=1, patience_s=0)
    rows: list[Row | Reject] = numbered(["not a row"] * 100)
    rows += [
        Row(n, {"id": f"r{n}", "task": "edit", "image": "s3://tests/i.png", "prompt": "p"})
        for n in range(101, 300)
    ]
    text = fails_either_way(
        monkeypatch, lambda: planned(rows, Store(away), tmp_path / "a"), CatalogError
    )
    assert text.startswith("sources cannot be identified: s3://tests/i.png: ")


@pytest.mark.usefixtures("many")
def test_a_fault_of_ours_in_a_helper_is_raised_with_its_traceback(
    store: Store, sources: str, tmp_path: Path
) -> None:
    rows = catalog(sources, 300)
    rows[200] = Row(201, None)  # type: ignore[arg-type]
    with pytest.raises(
        AttributeError, match="'NoneType' object has no attribute 'items'"
    ) as raised:
        planned(rows, store, tmp_path)
    (note,) = raised.value.__notes__
    assert "in parse_spec" in note


_STALLS = """
import sys, time
from pathlib import Path
from ace_tasks.plan import helpers
from tests.plan.test_helpers import catalog, helping, planned
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store

def rows():
    yield from catalog(sys.argv[1], 200)
    print(*(each.pid for each in helping()), flush=True)
    time.sleep(3600)

helpers._ALONE_ROWS, helpers._number = 16, lambda: 2
planned(rows(), Store(StoreSettings()), Path(sys.argv[2]))
"""


def test_processes_end_with_the_one_that_was_killed(sources: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STALLS, sources, str(tmp_path / "plan")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # what is killed leaves its files
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as plans:
        assert plans.stdout
        family = [psutil.Process(int(pid)) for pid in plans.stdout.readline().split()]
        assert len(family) == 2
        plans.kill()
    _, alive = psutil.wait_procs(family, timeout=limit_s())
    assert alive == []
