"""Test plans against a real store. If these break, a finished catalog is edited and paid for again,
an item is lost between two rows that share it, or one bad source stops a million good rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from ace_tasks.catalog.files import Row, open_catalog, read_rows, to_specs
from ace_tasks.errors import CatalogError
from ace_tasks.model.variants import find_variant
from ace_tasks.plan import plan_file, resume
from ace_tasks.plan.outline import Outline, PlanCounts
from ace_tasks.plan.plan_file import Basis, PlanFiles, PlannedRow
from ace_tasks.plan.planned import Planned
from ace_tasks.plan.resume import RetryRules
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Failed, write_failure
from ace_tasks.provenance.tombstones import Tombstones, of_item
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import (
    AutoMask,
    PixelSettings,
    Source,
    Sources,
    WorkItem,
    earlier_item_ids,
    parse_spec,
    work_item,
)
from ace_tasks.store import ObjectInfo, Store, join_uri
from infra.demo import upload_sample
from infra.sample.make import PREFIX as SAMPLE
from infra.sample.make import ROWS as SAMPLE_ROWS
from tests.conftest import BUCKET

MODEL = find_variant("toy").identity()
ADAPTED = MODEL.model_copy(update={"adapters": {"local_editing": "1", "subject": "2"}})


@dataclass
class Built:
    """A plan as it was written and read back."""

    path: Path
    rows: list[PlannedRow]
    rejects: list[dict[str, Any]]
    counts: PlanCounts

    @property
    def items(self) -> dict[str, WorkItem]:
        return {row.item.row_id: row.item for row in self.rows}

    def rejected(self) -> list[tuple[int, str | None]]:
        return [(each["line"], each["field"]) for each in self.rejects]


Build = Callable[..., Built]


@pytest.fixture
def build(store: Store, tmp_path: Path) -> Build:
    def build(rows: Iterable[dict[str, Any]], model: Any = MODEL, through: Store = store) -> Built:
        catalog, path = tmp_path / "catalog.jsonl", tmp_path / "plan.parquet"
        catalog.write_text("".join(json.dumps(row) + "\n" for row in rows) or "\n")
        rejects = tmp_path / "rejects.jsonl"
        specs = to_specs(read_rows(catalog), str(catalog), None)
        plan_file.build_plan(specs, Basis(model), through, PlanFiles(path, rejects))
        lines = rejects.read_text().splitlines()
        counts = Outline.read(path).count(rejects)
        return Built(
            path, [*plan_file.read_plan(path)], [json.loads(line) for line in lines], counts
        )

    return build


@pytest.fixture
def image(store: Store, prefix: str) -> str:
    """Return the URI of an object to edit; planning asks for its identity only."""
    uri = join_uri(prefix, "i.png")
    store.put(uri, b"some bytes", "image/png")
    return uri


def edit(row_id: str, image: str, **more: Any) -> dict[str, Any]:
    return {"id": row_id, "task": "edit", "image": image, "prompt": "p"} | more


# ---------------------------------------------------------------- identities


def test_a_source_is_identified_by_what_the_store_says(
    build: Build, store: Store, image: str
) -> None:
    def planned() -> WorkItem:
        return build([edit("a", image)]).items["a"]

    before, info = planned(), store.head(image)
    assert before.sources.image == Source(
        uri=image, etag=info.etag, size_bytes=info.size_bytes, sha256=info.sha256
    )
    assert info.sha256
    store.put(image, b"some bytes", "image/jpeg")
    assert planned().item_id == before.item_id
    store.put(image, b"other bytes", "image/png")
    assert planned().item_id != before.item_id


def test_every_source_of_a_row_is_identified(build: Build, store: Store, prefix: str) -> None:
    uris = [join_uri(prefix, name) for name in ("i", "m", "r1", "r2")]
    for uri in uris:
        store.put(uri, uri.encode(), "image/png")
    row = edit("a", uris[0], task="try_on", mask=uris[1], reference=uris[2:])
    sources = build([row]).items["a"].sources
    assert [each.uri for each in sources.each()] == uris
    assert all(each.sha256 for each in sources.each())


MISSING = {  # name: (source, its problem, which is part of the item's id: never word it anew)
    "no object": (f"s3://{BUCKET}/no/such.png", "no such object"),
    # HEAD has no body to say more in.
    "no bucket": ("s3://no-such-bucket/i.png", "no such object"),
    "no file": ("no/such.png", "no such file"),
    "folder": (".", "no such file"),
    "name too long": ("x" * 300, "cannot be read (OSError)"),
}


@pytest.mark.parametrize(("uri", "problem"), MISSING.values(), ids=MISSING)
def test_a_source_that_is_not_there_is_the_items_problem(
    build: Build, image: str, uri: str, problem: str
) -> None:
    """It does not end the run, and is no reject: the object may be there when its turn comes."""
    rows = [edit("a", image), edit("b", uri), edit("c", image, prompt="q", mask=uri)]
    built = build(rows)
    assert built.rejects == []
    items = built.items
    assert [each.problem for each in items["a"].sources.each()] == [None]
    assert items["b"].sources.image
    assert items["b"].sources.image.problem == problem
    assert items["c"].sources.mask
    assert items["c"].sources.mask.problem == problem


def test_an_object_that_came_later_makes_another_item(
    build: Build, store: Store, prefix: str
) -> None:
    """The failure of the first run is not kept once its reason is gone."""
    uri = join_uri(prefix, "late.png")
    before = build([edit("a", uri)]).items["a"]
    store.put(uri, b"now", "image/png")
    assert build([edit("a", uri)]).items["a"].item_id != before.item_id


def test_a_store_that_is_away_stops_the_plan(build: Build, image: str) -> None:
    away = Store(StoreSettings(endpoint_url="http://127.0.0.1:9", max_attempts=1, patience_s=0))
    with pytest.raises(CatalogError, match="cannot be identified"):
        build([edit(str(n), image) for n in range(200)], through=away)


def test_a_source_of_many_rows_is_asked_for_a_few_times_only(build: Build, image: str) -> None:
    """A try-on catalog names one garment in every row, and a HEAD for each row would cost money."""

    class Counting(Store):
        heads = 0

        def head(self, uri: str) -> ObjectInfo:
            self.heads += 1
            return super().head(uri)

    counting = Counting(StoreSettings())
    built = build([edit(str(n), image, seed=n) for n in range(500)], through=counting)
    assert built.counts.planned == 500
    assert counting.heads == 1


def test_a_key_that_unicode_writes_otherwise_is_reported(
    build: Build, store: Store, prefix: str
) -> None:
    """As a link of a feed has it, where the file was uploaded from a Mac."""
    store.put(f"{prefix}/Zoe\u0308.png", b"x", "image/png")
    rows = [edit("a", f"{prefix}/Zo\u00eb.png"), edit("b", f"{prefix}/Zo\u00e9.png")]
    problems = [row.item.sources.image.problem for row in build(rows).rows]
    assert "one whose name looks the same is there, written in Unicode's form NFD" in problems[0]
    assert "looks the same" not in problems[1]


def test_rejects_of_a_made_catalog_name_where_in_the_sources_file_they_come_from(
    store: Store, image: str, tmp_path: Path
) -> None:
    """The lines of a catalog that a run made mean nothing to whoever gave the feed."""
    rows = [edit("a", image), edit("b", image, steps="many"), edit("a", image), edit("c", image)]
    specs = to_specs([Row(n, row) for n, row in enumerate(rows, start=1)], "s3://tests/c", None)
    asked: list[int] = []

    def where(line: int) -> str:
        asked.append(line)
        return f"feed.csv, line {line * 10}"

    path, rejects = tmp_path / "plan", tmp_path / "rejects"
    plan_file.build_plan(specs, Basis(MODEL), store, PlanFiles(path, rejects), where=where)
    reasons = [json.loads(line)["reason"] for line in rejects.read_text().splitlines()]
    assert asked == [2, 3]
    assert reasons[0].startswith("feed.csv, line 20: ")
    assert reasons[1] == (
        "feed.csv, line 30: accepted: an id used once; 'a' is also in an earlier row"
    )


CUT_OUT = PixelSettings(auto_mask=AutoMask(method="u2net", model="0" * 64))


def test_the_same_catalog_as_jsonl_csv_and_parquet_is_the_same_items(
    store: Store, tmp_path: Path
) -> None:
    upload_sample(store)
    found = []
    for kind in ("jsonl", "csv", "parquet"):
        uri, path, rejects = f"{SAMPLE}/catalog.{kind}", tmp_path / kind, tmp_path / "rejects"
        with open_catalog(uri, store) as file:
            specs = to_specs(read_rows(file), uri, None)
            plan_file.build_plan(specs, Basis(MODEL, CUT_OUT), store, PlanFiles(path, rejects))
        assert rejects.read_text() == ""
        rows = [*plan_file.read_plan(path)]
        assert not [row for row in rows if any(each.problem for each in row.item.sources.each())]
        found.append({row.item.row_id: row.item.item_id for row in rows})
    assert found[0] == found[1] == found[2]
    assert found[0].keys() == {row["id"] for row in SAMPLE_ROWS}
    assert len(set(found[0].values())) == len(SAMPLE_ROWS)


# ---------------------------------------------------------------- rows


def test_an_id_used_again_is_rejected_and_names_the_first_line(build: Build, image: str) -> None:
    rows = [
        edit("a", image),
        edit("b", image, seed=1),
        edit("a", image, seed=2),
        edit("b", image, seed=1),
        edit("A", image, seed=3),
    ]
    built = build(rows)
    assert built.rejected() == [(3, "id"), (4, "id")]
    assert "'a' is also in line 1" in built.rejects[0]["reason"]
    assert "'b' is also in line 2" in built.rejects[1]["reason"]
    assert [each["row"] for each in built.rejects] == rows[2:4]
    assert built.items.keys() == {"a", "b", "A"}


def test_rows_that_ask_for_the_same_share_one_item(
    build: Build, store: Store, prefix: str, image: str
) -> None:
    copy = join_uri(prefix, "copy.png")
    store.put(copy, b"some bytes", "image/png")
    rows = [
        edit("z", image),
        edit("a", image),
        edit("other", image, seed=1),
        edit("m", copy, steps=MODEL.steps, candidates=1),
    ]
    built = build(rows)
    assert {row.item.row_id: row.same_as for row in built.rows} == {
        "z": None,
        "a": "z",
        "m": "z",
        "other": None,
    }
    assert len({built.items[each].item_id for each in "zam"}) == 1
    assert built.counts == PlanCounts(planned=4, shared=2, by_task={"edit": 4})
    assert [*plan_file.read_ids(built.path)] == [row.item_id for row in built.rows]


@pytest.mark.parametrize(
    ("column", "value"), [("control", "depth"), ("mask", "auto"), ("adapter", "portrait")]
)
def test_what_this_version_cannot_do_is_rejected_before_it_is_paid_for(
    build: Build, image: str, column: str, value: str
) -> None:
    row = edit("b", image, **{column: value})
    built = build([edit("a", image, control="canny", candidates=1, mask="alpha"), row])
    assert built.rejected() == [(2, column)]
    assert built.rejects[0]["row"] == row
    assert "accepted" in built.rejects[0]["reason"] or column in {"mask", "control"}
    assert [*built.items] == ["a"]


def test_neighbours_run_alike(build: Build, image: str) -> None:
    """Rows are ordered by adapter, task, size, steps, then as in the catalog, so that a replica
    rarely switches."""

    def reference(row_id: str, **more: Any) -> dict[str, Any]:
        row = {"id": row_id, "task": "reference", "reference": image, "prompt": row_id}
        return row | more

    rows = [
        reference("r-wide", width=1024),
        edit("e-20", image, steps=20),
        reference("r-narrow", width=256),
        edit("f", image, task="fill", mask={"box": [0, 0, 1, 1]}),
        edit("e-3-z", image, steps=3, seed=2),
        edit("e-3-a", image, steps=3, seed=1),
    ]
    built = build(rows, model=ADAPTED)
    expected = ["e-3-z", "e-3-a", "e-20", "f", "r-narrow", "r-wide"]
    assert [row.item.row_id for row in built.rows] == expected
    changes = [a.item.resolved.adapter != b.item.resolved.adapter for a, b in pairwise(built.rows)]
    assert sum(changes) == 1
    positions = pyarrow.parquet.read_table(built.path)["position"].to_pylist()
    assert positions == [*range(len(rows))]


def test_a_plan_is_read_back_as_it_was_made(build: Build, store: Store, image: str) -> None:
    rows = [
        edit("a", image, prompt="雪 'é'\n\0", seed=0, guidance=0.1, mask={"polygon": [[0, 0]] * 3}),
        edit("b", image, mask={"ellipse": [0.1, 0.2, 0.3, 1]}, format="avif"),
        {"id": "c", "task": "reference", "reference": [image, image], "prompt": "p"},
    ]
    info = store.head(image)
    source = Source(uri=image, etag=info.etag, size_bytes=info.size_bytes, sha256=info.sha256)
    sources = [Sources(image=source), Sources(image=source), Sources(reference=(source, source))]
    expected = {
        row["id"]: work_item(line, parse_spec(row), each, MODEL)
        for line, (row, each) in enumerate(zip(rows, sources, strict=True), 1)
    }
    assert build(rows).items == expected


def test_every_row_is_planned_or_rejected(build: Build, image: str) -> None:
    rows: list[dict[str, Any]] = [edit(f"good-{n}", image, seed=n) for n in range(2500)]
    rows[100] = edit("bad", "http://host/i.png")
    rows[200] = edit("good-7", image)
    rows[300] = edit("far", image, control="depth")
    rows[400] = {}
    built = build(rows)
    assert [line for line, _ in built.rejected()] == [101, 201, 301, 401]
    assert built.counts == PlanCounts(planned=2496, rejected=4, by_task={"edit": 2496})
    lines = {row.item.line for row in built.rows} | {line for line, _ in built.rejected()}
    assert lines == {*range(1, 2501)}


def test_a_catalog_of_rejects_alone_is_an_empty_plan(build: Build) -> None:
    built = build([{"id": "a"}, {"id": "b"}])
    assert (built.rows, built.counts) == ([], PlanCounts(rejected=2))


def test_a_catalog_without_rows_is_refused(build: Build) -> None:
    with pytest.raises(CatalogError, match="no rows"):
        build([])


def test_shards_are_consecutive_and_whole(build: Build, image: str) -> None:
    items = [*build([edit(str(n), image, seed=n) for n in range(7)]).items.values()]
    groups = [*plan_file.shards(items, 3)]
    assert [len(group) for group in groups] == [3, 3, 1]
    assert [each for group in groups for each in group] == items
    assert [*plan_file.shards([], 3)] == []


# ---------------------------------------------------------------- what is done


@pytest.fixture(params=[2000, 0], ids=["by HEAD", "by listing"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what is done in both ways."""
    monkeypatch.setattr(resume, "_HEADS_AT_MOST", request.param)


WAYS = pytest.mark.usefixtures("either_way")


@pytest.fixture
def left_behind(build: Build, store: Store, prefix: str, image: str) -> tuple[Built, str]:
    """Return a plan of six items, and the output URI with what an earlier run left of them."""
    names = ["done", "bad", "lost", "both", "fresh", "other-output"]
    built = build([edit(name, image, prompt=name) for name in names])
    output = join_uri(prefix, "out")

    def record(name: str, where: str = output) -> None:
        store.put(join_uri(where, record_key(built.items[name].item_id)), b"{}", "text/plain")

    def failure(item: WorkItem, transient: bool) -> None:
        code = "replica_lost" if transient else "bad_image"
        failed = Failed(
            item_id=item.item_id, code=code, message="it failed", transient=transient, attempts=2
        )
        write_failure(store, output, item, failed, "earlier")

    record("done")
    record("both")
    record("other-output", where=join_uri(prefix, "out2"))
    failure(built.items["bad"], transient=False)
    failure(built.items["lost"], transient=True)
    failure(built.items["both"], transient=False)
    foreign = built.items["fresh"].model_copy(update={"item_id": "f" * 64})
    failure(foreign, transient=False)
    store.put(join_uri(output, record_key("e" * 64)), b"{}", "text/plain")
    return built, output


@WAYS
def test_what_is_done_and_what_would_fail_again_is_found(
    store: Store, left_behind: tuple[Built, str]
) -> None:
    built, output = left_behind
    found = resume.find_finished(store, output, built.path)
    items = built.items
    assert found.records == {items["done"].item_id, items["both"].item_id}
    assert found.failures.keys() == {items["bad"].item_id}
    kept = found.failures[items["bad"].item_id]
    assert (kept.code, kept.message, kept.attempts) == ("bad_image", "it failed", 2)


def test_each_row_has_one_standing(
    store: Store, prefix: str, image: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone decides what is edited, priced and shown to a person first."""
    monkeypatch.setattr(plan_file, "_BATCH_ROWS", 2)  # so that a plan has several groups of rows
    names = ["done", "bad", "open", "late"]
    twins = [edit(f"twin-{name}", image, prompt=name) for name in ("done", "open")]
    built = build([*(edit(name, image, prompt=name) for name in names), *twins])
    output = join_uri(prefix, "out")
    for name in ("done", "bad"):  # a record beats a failure
        item = built.items[name]
        write_failure(
            store,
            output,
            item,
            Failed(
                item_id=item.item_id,
                code="bad_image",
                message="it failed",
                transient=False,
                attempts=1,
            ),
            "run",
        )
    done = join_uri(output, record_key(built.items["done"].item_id))
    store.put(done, b"{}", "application/json")
    before = resume.find_finished(store, output, built.path)
    files = PlanFiles(built.path, built.path.with_name("rejects.jsonl"))
    planned = Planned.of(files, built.counts, before)
    standings = {row.row_id: standing.name for row, standing in planned.read()}
    assert standings == {
        "done": "DONE",
        "bad": "FAILED_BEFORE",
        "open": "TO_DO",
        "late": "TO_DO",
        "twin-done": "SHARED",
        "twin-open": "SHARED",
    }
    assert planned.rows_to_do == 3  # one of them shares its picture
    positions = planned.positions_to_do().tolist()
    assert [item.row_id for item in planned.items_at(positions)] == ["open", "late"]
    assert [planned.outline.task_of(each) for each in positions] == ["edit", "edit"]
    shared = {built.items[name].item_id for name in ("done", "open")}
    assert planned.outline.shared_item_ids() == shared
    assert planned.outline.item_ids == {row.item_id for row in built.rows}


@WAYS
def test_failures_are_tried_again_when_asked_for(
    store: Store, left_behind: tuple[Built, str]
) -> None:
    built, output = left_behind
    found = resume.find_finished(store, output, built.path, RetryRules(failures=True))
    assert found.records == {built.items["done"].item_id, built.items["both"].item_id}
    assert found.failures == {}


@WAYS
def test_nothing_is_done_where_nothing_is(store: Store, left_behind: tuple[Built, str]) -> None:
    built, output = left_behind
    found = resume.find_finished(store, join_uri(output, "empty"), built.path)
    assert (found.records, found.failures) == (frozenset(), {})


# ---------------------------------------------------------------- under an earlier version


@pytest.fixture
def upgraded(build: Build, store: Store, prefix: str, image: str) -> tuple[Built, str]:
    """Return a plan of six items, and the output URI with what the version before left of them."""
    names = ["done", "both", "bad", "discarded", "redone", "fresh"]
    built = build(
        [*(edit(name, image, prompt=name) for name in names), edit("twin", image, prompt="done")]
    )
    output = join_uri(prefix, "out")

    def record(item_id: str) -> None:
        store.put(join_uri(output, record_key(item_id)), b"{}", "text/plain")

    def failure(name: str, code: str) -> None:
        item = built.items[name]
        item = item.model_copy(update={"item_id": earlier_id(item)})
        failed = Failed(
            item_id=item.item_id, code=code, message="it was so", transient=False, attempts=1
        )
        write_failure(store, output, item, failed, "earlier")

    for name in ("done", "both"):
        record(earlier_id(built.items[name]))
    for name in ("both", "redone"):
        record(built.items[name].item_id)
    failure("bad", "bad_image")
    failure("discarded", "discarded")
    failure("redone", "needs_review")
    return built, output


def earlier_id(item: WorkItem) -> str:
    (found,) = earlier_item_ids(item, MODEL)
    return found


@WAYS
def test_what_the_version_before_finished_counts_as_done(
    store: Store, upgraded: tuple[Built, str]
) -> None:
    """Else an upgrade edits every catalog anew, and publishes what a person refused."""
    built, output = upgraded
    found = resume.find_finished(store, output, built.path, RetryRules(failures=True))
    own, earlier = (
        {n: f(i) for n, i in built.items.items()} for f in (lambda i: i.item_id, earlier_id)
    )
    assert found.renamed
    assert found.records == {earlier["done"], own["both"], own["redone"]}
    assert found.failures.keys() == {earlier["discarded"]}
    rows = {row.row_id: row for row in plan_file.read_plan(built.path)}
    expected = (
        own | {name: earlier[name] for name in ("done", "discarded")} | {"twin": earlier["done"]}
    )
    assert {name: row.item_id for name, row in rows.items()} == expected
    assert {name: row.item.item_id for name, row in rows.items()} == expected
    assert (rows["twin"].same_as, rows["done"].same_as) == ("done", None)
    again = resume.find_finished(store, output, built.path, RetryRules(failures=True))
    assert (again.records, again.failures.keys()) == (found.records, found.failures.keys())
    assert not again.renamed


@WAYS
def test_older_pictures_are_redone_when_asked_for_but_a_persons_decision_stays(
    store: Store, upgraded: tuple[Built, str]
) -> None:
    built, output = upgraded
    found = resume.find_finished(store, output, built.path, RetryRules(redo_older=True))
    assert found.records == {built.items[name].item_id for name in ("both", "redone")}
    assert found.failures.keys() == {earlier_id(built.items["discarded"])}


def test_what_a_person_decided_under_an_older_version_is_redone_by_name(
    store: Store, upgraded: tuple[Built, str]
) -> None:
    built, output = upgraded
    found = resume.find_finished(
        store,
        output,
        built.path,
        RetryRules(failures=True, named=frozenset({"discarded"}), redo_older=True),
    )
    assert not found.renamed
    assert [*plan_file.read_plan(built.path)] == built.rows
    assert found.failures == {}


def test_what_is_forgotten_under_an_older_version_stays_so(
    build: Build, store: Store, image: str, tmp_path: Path
) -> None:
    """Else an upgrade makes a person's picture again."""
    built = build([edit("a", image)])
    forgotten = Tombstones(frozenset({of_item(earlier_id(built.items["a"]))}))
    specs = to_specs(read_rows(tmp_path / "catalog.jsonl"), "catalog.jsonl", None)
    path, rejects = tmp_path / "anew.parquet", tmp_path / "anew.jsonl"
    plan_file.build_plan(specs, Basis(MODEL), store, PlanFiles(path, rejects), forgotten)
    counts = Outline.read(path).count(rejects)
    assert (counts.planned, counts.forgotten) == (0, 1)
