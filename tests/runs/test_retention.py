"""A source, or a run, forgotten, on a real store and a real Prefect server. If these break, a person's
picture stays somewhere, or the next schedule makes it again."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import html
import io
import itertools
import json
import re
import uuid
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow.parquet
import pytest
from prefect.client.orchestration import get_client

from ace_tasks.errors import NotFound
from ace_tasks.provenance.keys import part_run_id
from ace_tasks.runs.forget import Forget
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store, split_uri
from flows.audit_run import audit_run
from flows.edit_catalog import edit_catalog
from flows.forget import forget
from flows.restyle_catalog import restyle_catalog
from flows.review_run import review_run
from flows.steps.forgotten_artifacts import delete_artifacts, find_artifacts
from flows.steps.trial import Trial
from tests.support.processes import ace_here
from tests.support.raw_s3 import (
    count_versions,
    keep_versions,
    put_without_checksum,
    store_with_short_pages,
    upload_in_parts,
)

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]


@pytest.fixture
def prefix(store: Store) -> str:
    """A bucket of its own, since all of it is searched."""
    bucket = f"forget-{uuid.uuid4().hex[:12]}"
    store.create_bucket(bucket)
    return f"s3://{bucket}/shop"


def edit(prefix: str, rows: list[dict[str, Any]], store: Store) -> Summary:
    body = "\n".join(json.dumps({"steps": 1, "prompt": "p"} | row) for row in rows)
    store.put(f"{prefix}/c.jsonl", body.encode(), "text/plain")
    state = edit_catalog(
        catalog=f"{prefix}/c.jsonl", output=f"{prefix}/out", variant="toy", return_state=True
    )
    return Summary.model_validate(state.result(raise_on_failure=False))


def holding(store: Store, prefix: str, phrases: list[str]) -> set[str]:
    """Keys of the whole bucket's objects that hold one of the phrases, in what Parquet packs, too;
    those of the output without its prefix. Sources and catalogs are the user's own.
    """
    found = set()
    for each in store.list(f"s3://{split_uri(prefix)[0]}/"):
        if each.uri.startswith((f"{prefix}/in/", f"{prefix}/c.jsonl")):
            continue
        raw = store.get(each.uri)
        body = decoded(raw)
        with contextlib.suppress(pyarrow.ArrowInvalid):  # other tests' objects may be broken ones
            table = pyarrow.parquet.read_table(pyarrow.BufferReader(raw))
            body += decoded(json.dumps(table.to_pylist(), default=str, ensure_ascii=False).encode())
        if any(phrase.encode() in body or phrase in each.uri for phrase in phrases):
            found.add(each.uri.removeprefix(f"{prefix}/out/"))
    return found


def decoded(body: bytes) -> bytes:
    """Return it with all that its escapes stand for, as JSON, a page or a link has them."""
    text = body.decode(errors="replace")
    plain = text.replace('\\"', '"').replace("\\\\", "\\")
    return "\n".join([text, plain, html.unescape(text), unquote(text)]).encode()


def artifacts_mentioning(phrases: list[str]) -> int:
    """How many artifacts hold one of the phrases."""
    artifacts: list[Any] = []
    with get_client(sync_client=True) as client:
        while page := client.read_artifacts(limit=200, offset=len(artifacts)):
            artifacts += page
    texts = [
        re.sub(r"\\+([^A-Za-z0-9\s])", r"\1", f"{each.data} {each.description}")
        for each in artifacts
    ]
    return sum(any(phrase in text for phrase in phrases) for text in texts)


def outcome(state: Any) -> dict[str, Any]:
    assert state.is_completed(), state.message
    return dict(state.result())


def test_a_source_is_forgotten_with_all_that_was_made_of_it(
    store: Store, prefix: str, picture: Make
) -> None:
    secret, other = picture(seed=7001), picture(seed=7002)  # no other test's
    store.put(f"{prefix}/in/person.png", secret, "image/png")
    store.put(f"{prefix}/in/person.png.png", other, "image/png")  # its name begins alike
    rows = [
        {"id": "first", "task": "edit", "image": f"{prefix}/in/person.png"},
        {"id": "twin", "task": "edit", "image": f"{prefix}/in/person.png"},
        {
            "id": "dressed",
            "task": "try_on",
            "image": f"{prefix}/in/person.png.png",
            "mask": {"box": [0.2, 0.2, 0.8, 0.8]},
            "reference": f"{prefix}/in/person.png",
        },
        {"id": "other", "task": "edit", "image": f"{prefix}/in/person.png.png"},
        {"id": "broken", "task": "fill", "image": f"{prefix}/in/person.png", "mask": "alpha"},
        {"id": "odd", "task": "edit", "image": f"{prefix}/in/person.png", "steps": -1},
    ]
    summary = edit(prefix, rows, store)
    assert (summary.done, summary.failed, summary.rejected) == (4, 1, 1)
    table = pyarrow.parquet.read_table(
        io.BytesIO(store.get(f"{prefix}/out/runs/{summary.run_id}/results.parquet"))
    ).to_pylist()
    made = {row["row_id"]: row for row in table}
    again = edit(
        prefix, [{"id": "second", "task": "edit", "image": made["first"]["output_uri"]}], store
    )
    assert again.done == 1

    gone = [each["item_id"] for each in table if each["row_id"] in {"first", "dressed", "broken"}]
    phrases = [f'{prefix}/in/person.png"', hashlib.sha256(secret).hexdigest(), *gone, "/second/"]
    before = holding(store, prefix, phrases)
    assert len(before) > 8
    assert artifacts_mentioning(phrases)
    source = f"{prefix}/in/person.png"
    dry = outcome(forget(output=f"{prefix}/out", source=source, return_state=True))
    assert (dry["counts"]["items"], dry["counts"]["pictures"]) == (4, 3)
    assert holding(store, prefix, phrases) == before

    done = outcome(forget(output=f"{prefix}/out", source=source, delete=True, return_state=True))
    assert done["counts"] == dry["counts"]
    assert holding(store, prefix, phrases) == set()
    assert artifacts_mentioning(phrases) == 0
    assert [key for key in holding(store, prefix, ["forgotten/"]) if key.startswith("forgotten/")]
    assert holding(store, prefix, [made["other"]["item_id"]])  # who is not meant stays
    audited = audit_run(output=f"{prefix}/out", run=summary.run_id, return_state=True)
    assert audited.name == "Completed", audited.message

    # The next schedule, with the very catalog; and a copy of the picture under another name.
    store.put(f"{prefix}/in/copy.png", secret, "image/png")
    copied = {"id": "copied", "task": "edit", "image": f"{prefix}/in/copy.png"}
    later = edit(prefix, [*rows[:5], copied], store)
    assert (later.done, later.done_before, later.forgotten, later.rejected) == (0, 1, 5, 0)
    assert (
        outcome(forget(output=f"{prefix}/out", source=source, return_state=True))["counts"][
            "pictures"
        ]
        == 0
    )


def test_a_run_is_forgotten_and_its_neighbour_stays(
    store: Store, prefix: str, picture: Make
) -> None:
    store.put(f"{prefix}/in/0.png", picture(seed=1), "image/png")
    row = {"task": "edit", "image": f"{prefix}/in/0.png"}
    first = edit(prefix, [row | {"id": "a", "seed": 1}], store)
    second = edit(prefix, [row | {"id": "b", "seed": 2}], store)
    done = outcome(forget(output=f"{prefix}/out", run=first.run_id, delete=True, return_state=True))
    assert done["counts"]["items"] == 1
    assert holding(store, prefix, [first.run_id]) == {
        key for key in holding(store, prefix, [first.run_id]) if key.startswith("rates/")
    }
    assert holding(store, prefix, [second.run_id])
    later = edit(prefix, [row | {"id": "a", "seed": 1}, row | {"id": "b", "seed": 2}], store)
    assert (later.done, later.done_before, later.forgotten) == (0, 1, 1)


def test_a_page_that_was_written_over_keeps_no_version_that_tells(
    store: Store, prefix: str, picture: Make
) -> None:
    """While a run works its sheet shows the newest rows only, and a bucket may keep the others."""
    keep_versions(split_uri(prefix)[0])
    for number in range(2):
        store.put(f"{prefix}/in/{number}.png", picture(seed=7040 + number), "image/png")
    rows = [{"id": f"r{n}", "task": "edit", "image": f"{prefix}/in/{n}.png"} for n in range(2)]
    run_id = edit(prefix, rows, store).run_id
    page = f"{prefix}/out/runs/{run_id}/report.html"
    whole = store.get(page)
    store.put(page, re.sub(rb"<article.*</article>", b"", whole, flags=re.DOTALL), "text/html")
    newest = store.get(page)
    assert count_versions(page) > 1
    neighbour = edit(prefix, rows[1:], store).run_id
    kept = f"{prefix}/out/runs/{neighbour}/report.html"
    store.put(kept, store.get(kept), "text/html")
    versions = count_versions(kept)

    forgotten(prefix, source=f"{prefix}/in/0.png")
    assert (store.get(page), count_versions(page)) == (newest, 1)
    assert count_versions(kept) == versions > 1  # a run that knows nothing of it


def test_a_page_of_a_comparison_keeps_no_version_if_a_part_tells(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that starts again first shows its rows without the pictures of its parts."""
    keep_versions(split_uri(prefix)[0])
    comparison = str(uuid.uuid4())
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", part_run_id(comparison, "second"))
    store.put(f"{prefix}/in/0.png", picture(seed=7050), "image/png")
    part = edit(prefix, [{"id": "r0", "task": "edit", "image": f"{prefix}/in/0.png"}], store)
    assert part.run_id == part_run_id(comparison, "second")
    page, neighbour = (
        f"{prefix}/out/runs/{each}/report.html" for each in (comparison, uuid.uuid4())
    )
    for uri, body in itertools.product((page, neighbour), (b"pictures", b"none yet")):
        store.put(uri, body, "text/html")

    forgotten(prefix, source=f"{prefix}/in/0.png")
    assert (store.get(page), count_versions(page)) == (b"none yet", 1)
    assert count_versions(neighbour) == 2


def test_older_versions_go_too(store: Store, object_store: Any) -> None:
    bucket = "versioned"
    store.create_bucket(bucket)
    keep_versions(bucket)
    uri = f"s3://{bucket}/a.json"
    for body in (b"1", b"2", b"3"):
        store.put(uri, body, "text/plain")
    store.put(f"{uri}.other", b"4", "text/plain")
    store = store_with_short_pages()
    store.purge_older(uri)
    assert (store.get(uri), count_versions(uri)) == (b"3", 1)
    store.put(uri, b"5", "text/plain")
    store.purge(uri)
    assert count_versions(uri) == 0
    assert store.get(f"{uri}.other") == b"4"


@pytest.mark.parametrize(
    "given",
    [{}, {"source": "s3://b/k", "run": "r"}, {"source": "in/local.png"}],
    ids=["nothing", "both", "a-local-file"],
)
def test_what_is_to_be_forgotten_must_be_named(prefix: str, given: dict[str, str]) -> None:
    state = forget(output=f"{prefix}/out", return_state=True, **given)
    assert state.is_failed()
    assert "accepted: " in state.message


def forgotten(prefix: str, **given: str) -> dict[str, Any]:
    return outcome(forget(output=f"{prefix}/out", delete=True, return_state=True, **given))


NAMES = [
    "anna_smith.png",
    '12" vinyl.png',
    "a\\b.png",
    "Anna *B* (1)+#1 [x] {y} ~z~ !.png",
    "a<b>&amp;'c'.png",
    "100%25 a.png",
    "anna  smith.png",
    "n" * 230 + "anna.png",  # a table cuts it
]


@pytest.mark.thorough
def test_whatever_its_name_nothing_mentions_it(store: Store, prefix: str, picture: Make) -> None:
    """Of pictures that were edited, and of such as are not there; of rows, and of rejects."""
    rows = []
    for number, name in enumerate(NAMES):
        store.put(f"{prefix}/in/{name}", picture(seed=7010 + number), "image/png")
        for kind, image in (("it", name), ("missing", f"missing {name}")):
            row = {"id": f"{kind}-{number}", "task": "edit", "image": f"{prefix}/in/{image}"}
            rows += [row | {"seed": 1}, row | {"id": f"odd-{kind}-{number}", "steps": -1}]
    state = restyle_catalog(
        source=f"{prefix}/in",
        output=f"{prefix}/out",
        prompt="p",
        variant="toy",
        pixels={"steps": 1},
        review={"review_below": 1.0},
        return_state=True,
    )
    run_id = Summary.model_validate(state.result(raise_on_failure=False)).run_id
    review_run(output=f"{prefix}/out", run=run_id, return_state=True)
    edit(prefix, rows, store)
    assert artifacts_mentioning([f"{prefix}/in/anna_smith.png"])
    assert len(holding(store, prefix, [f"{prefix}/in/{NAMES[1]}"])) > 5
    for name in (*NAMES, f"missing {NAMES[1]}", f"missing {NAMES[-1]}"):
        image = f"{prefix}/in/{name}"
        forgetting = Forget(store, store, f"{prefix}/out", image)
        delete_artifacts(find_artifacts(deletion := forgetting.look()))
        forgetting.write_tombstones(deletion, by="test")
        forgetting.delete(deletion)
        assert holding(store, prefix, [image]) == set(), image
        assert artifacts_mentioning([image, image[:150]]) == 0


def test_neighbours_whose_names_are_longer_stay_as_they_are(
    store: Store, prefix: str, picture: Make
) -> None:
    store.put(f"{prefix}/in/4.png", picture(), "image/png")
    others = ["4.png,b.png", "4.png(1).png", "4.png copy.png", "4.png;v=2", "4.png:large", "4.png'"]
    rows = [
        {"id": f"r{n}", "task": "edit", "image": f"{prefix}/in/{other}"}
        for n, other in enumerate(others)
    ]
    summary = edit(
        prefix, [{"id": "it", "task": "edit", "image": f"{prefix}/in/4.png"}, *rows], store
    )
    run = f"{prefix}/out/runs/{summary.run_id}"
    files = ("failures.jsonl", "results.csv", "report.html")
    before = {name: store.get(f"{run}/{name}").decode() for name in files}
    forgotten(prefix, source=f"{prefix}/in/4.png")
    assert store.get(f"{run}/failures.jsonl").decode() == before["failures.jsonl"]
    lines = before["results.csv"].splitlines()
    kept = [line for line in lines if not line.startswith("1,it,")]
    assert store.get(f"{run}/results.csv").decode().splitlines() == kept


def test_the_same_bytes_in_parts_are_forgotten_too(
    store: Store, prefix: str, picture: Make
) -> None:
    """Their ETag is another, and the store may know no SHA-256 of them."""
    data = picture(seed=7005)
    store.put(f"{prefix}/in/a.png", data, "image/png")
    edit(prefix, [{"id": "a", "task": "edit", "image": f"{prefix}/in/a.png"}], store)
    forgotten(prefix, source=f"{prefix}/in/a.png")
    upload_in_parts(f"{prefix}/in/copy.png", data)
    rows = [
        {"id": name, "task": "edit", "image": f"{prefix}/in/copy.png", "seed": seed}
        for seed, name in enumerate(("copy", "twin"))
    ]
    for _ in range(2):  # first it is found out when it is fetched; then every plan knows it
        summary = edit(prefix, rows, store)
        assert (summary.done, summary.failed, summary.forgotten) == (0, 0, 2)
        assert summary.state == "Completed"
        results = store.get(f"{prefix}/out/runs/{summary.run_id}/results.csv").decode()
        assert "copy" not in results
        assert store.get(f"{prefix}/out/runs/{summary.run_id}/failures.jsonl") == b""
    rejects = store.get(f"{prefix}/out/runs/{summary.run_id}/rejects.jsonl").decode()
    assert rejects.count("was forgotten, so it is not made again") == 2
    look = ("plan", f"{prefix}/c.jsonl", "--variant", "toy", "--output", f"{prefix}/out", "--look")
    shown, printed = ace_here(*look), ace_here(*look, "--json")
    assert (shown.returncode, printed.returncode) == (0, 0)
    assert "was forgotten, so it is not made again" not in shown.stdout
    listed = [json.loads(line) for line in printed.stdout.splitlines()]
    assert listed == [{"line": 1, "forgotten": True}, {"line": 2, "forgotten": True}]
    assert not list(store.list(f"{prefix}/out/failures/"))


@pytest.mark.parametrize("upload", ["whole", "in-parts"])
def test_what_was_not_edited_yet_is_kept_from_the_next_run(
    store: Store, prefix: str, picture: Make, upload: str
) -> None:
    store.put(f"{prefix}/in/x.png", picture(seed=1), "image/png")
    person = picture(seed=7006)
    rows = [
        {"id": name, "task": "edit", "image": f"{prefix}/in/{name}.png"}
        for name in ("x", "person", "copy")
    ]
    edit(prefix, rows[:1], store)
    if upload == "whole":
        store.put(f"{prefix}/in/person.png", person, "image/png")
    else:
        upload_in_parts(f"{prefix}/in/person.png", person)
    result = forgotten(prefix, source=f"{prefix}/in/person.png")
    assert result["counts"]["tombstones"] >= 1
    store.put(f"{prefix}/in/copy.png", person, "image/png")
    summary = edit(prefix, rows, store)
    assert (summary.done, summary.done_before, summary.forgotten) == (0, 1, 2)


@pytest.mark.thorough
def test_what_is_nowhere_cannot_be_forgotten_and_is_reported(
    store: Store, prefix: str, picture: Make
) -> None:
    store.put(f"{prefix}/in/x.png", picture(seed=1), "image/png")
    row = {"id": "x", "task": "edit", "image": f"{prefix}/in/x.png"}
    edit(prefix, [row], store)
    for given in ({"source": f"{prefix}/in/typo.png"}, {"run": str(uuid.uuid4())}):
        state = forget(output=f"{prefix}/out", delete=True, return_state=True, **given)
        assert state.is_failed()
        assert "there is nothing to forget" in state.message
    state = forget(output=f"{prefix}/typo", source=row["image"], delete=True, return_state=True)
    assert "accepted: a place in which runs have written" in state.message
    assert not list(store.list(f"{prefix}/typo"))


def test_what_is_not_proved_to_be_ours_is_left_alone(
    store: Store, prefix: str, picture: Make
) -> None:
    source = f"{prefix}/in/a.png"
    store.put(source, picture(seed=7007), "image/png")
    summary = edit(prefix, [{"id": "a", "task": "edit", "image": source}], store)
    (made,) = (each.uri for each in store.list(f"{prefix}/out/images/"))
    theirs = {
        f"{made.rpartition('.')[0][:-8]}00000000.png": picture(seed=2),  # a name like ours
        f"{made}.txt": source.encode(),
        f"{prefix}/out/images/a/notes.txt": source.encode(),
        f"{prefix}/out/runs/{summary.run_id}/notes.jsonl": json.dumps({"image": source}).encode(),
        f"{prefix}/out/runs/ours/failures.jsonl": json.dumps({"image": source}).encode(),
        f"{prefix}/out/runs/index.html": source.encode(),
    }
    for uri, body in theirs.items():
        store.put(uri, body, "text/plain")
    forgotten(prefix, source=source)
    forgotten(prefix, run=summary.run_id)
    assert {uri: store.get(uri) for uri in theirs} == theirs
    with pytest.raises(NotFound):
        store.get(made)


def test_the_plan_of_the_terminal_knows_what_is_forgotten(
    store: Store, prefix: str, picture: Make
) -> None:
    store.put(f"{prefix}/in/a.png", picture(seed=7008), "image/png")
    edit(prefix, [{"id": "a", "task": "edit", "image": f"{prefix}/in/a.png"}], store)
    forgotten(prefix, source=f"{prefix}/in/a.png")
    plan = ace_here("plan", f"{prefix}/c.jsonl", "--output", f"{prefix}/out", "--variant", "toy")
    assert "0 rows planned, 0 rejected, 1 forgotten" in plan.stdout


@pytest.mark.parametrize("decision", [None, "reject"], ids=["asked", "rejected"])
def test_what_was_decided_of_a_runs_first_pictures_outlives_one_of_them(
    decision: Literal["reject"] | None, store: Store, prefix: str, picture: Make
) -> None:
    """A run that waits for an answer, or is retried, would else make others and ask once more; or,
    once rejected, go on."""
    for number in range(2):
        store.put(f"{prefix}/in/{number}.png", picture(seed=7009 + number), "image/png")
    rows = [{"id": f"r{n}", "task": "edit", "image": f"{prefix}/in/{n}.png"} for n in range(2)]
    run_id = edit(prefix, rows, store).run_id
    place = (store, f"{prefix}/out", run_id)
    table = csv.DictReader(store.get(f"{prefix}/out/runs/{run_id}/results.csv").decode().split())
    items = {each["row_id"]: each["item_id"] for each in table}
    Trial(items=items, asked="canary-1", decision=decision).write(*place)

    forgotten(prefix, source=f"{prefix}/in/0.png")
    left = Trial.read(*place)
    assert left == Trial(items={"r1": items["r1"]}, asked="canary-1", decision=decision)
    assert holding(store, prefix, [items["r0"]]) == set()
    forgotten(prefix, source=f"{prefix}/in/1.png")
    left = Trial.read(*place)
    # Nothing is left to be asked about: others are made. What was decided stays decided.
    assert left == (Trial(items={}, asked="canary-1", decision=decision) if decision else None)
    assert holding(store, prefix, list(items.values())) == set()


def test_cut_short_the_same_again_forgets_what_is_left(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's server is away once; then the store, between the records of a picture and of what
    was made of that picture.
    """
    source = f"{prefix}/in/a.png"
    store.put(source, picture(seed=7020), "image/png")
    edit(prefix, [{"id": "first", "task": "edit", "image": source}], store)
    (made,) = (each.uri for each in store.list(f"{prefix}/out/images/"))
    edit(prefix, [{"id": "second", "task": "edit", "image": made}], store)
    (record,) = (
        each.uri
        for each in store.list(f"{prefix}/out/records/")
        if b'"second"' in store.get(each.uri)
    )

    def cut(*_: Any) -> None:
        raise KeyError("cut short")

    def purge(self: Store, uri: str) -> None:
        return cut() if uri == record else whole(self, uri)

    whole = Store.purge
    for target, instead in (
        ("flows.forget.delete_artifacts", cut),
        ("ace_tasks.store.Store.purge", purge),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, instead)
            assert forget(f"{prefix}/out", source, delete=True, return_state=True).is_failed()
    forgotten(prefix, source=source)
    assert holding(store, prefix, [f'{source}"', '"second"']) == set()
    assert not [*store.list(f"{prefix}/out/records/"), *store.list(f"{prefix}/out/images/")]
    assert artifacts_mentioning([source]) == 0


def test_cut_short_between_the_tables_of_a_run_its_rejects_are_still_found(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results know the id of a reject and no source of it: only the list of rejects says whose it is."""
    source = f"{prefix}/in/anna.png"
    store.put(source, picture(seed=7024), "image/png")
    edit(prefix, [{"id": "anna.png", "task": "edit", "image": source, "steps": -1}], store)
    assert len(holding(store, prefix, ["anna.png"])) > 2

    def cut(self: Store, uri: str) -> None:
        whole(self, uri)
        raise KeyError("cut short")

    whole = Store.purge_older
    with monkeypatch.context() as patch:
        patch.setattr(Store, "purge_older", cut)
        assert forget(f"{prefix}/out", source, delete=True, return_state=True).is_failed()
    forgotten(prefix, source=source)
    assert holding(store, prefix, ["anna.png"]) == set()


def test_the_same_content_under_another_name_is_mentioned_no_more(
    store: Store, prefix: str, picture: Make
) -> None:
    """The store knows no SHA-256 of it; of a row that failed, nobody does."""
    for name, seed in (("a", 7021), ("copy", 7021), ("reused", 7021), ("x", 1)):
        body = picture(seed=seed)
        put_without_checksum(f"{prefix}/in/{name}.png", body)
    rows = [
        {"id": "a", "task": "edit", "image": f"{prefix}/in/a.png"},
        {"id": "same", "task": "edit", "image": f"{prefix}/in/copy.png"},
        {"id": "failed", "task": "fill", "image": f"{prefix}/in/copy.png", "mask": "alpha"},
        {"id": "odd", "task": "edit", "image": f"{prefix}/in/copy.png", "steps": -1},
        {"id": "before", "task": "edit", "image": f"{prefix}/in/reused.png"},
        {"id": "x", "task": "edit", "image": f"{prefix}/in/x.png"},
    ]
    edit(prefix, rows, store)
    store.put(f"{prefix}/in/reused.png", picture(seed=2), "image/png")
    later = [rows[5], {"id": "after", "task": "edit", "image": f"{prefix}/in/reused.png"}]
    run_id = edit(prefix, later, store).run_id
    forgotten(prefix, source=f"{prefix}/in/a.png")
    phrases = [f"{prefix}/in/a.png", f"{prefix}/in/copy.png"]
    assert holding(store, prefix, phrases) == set()
    assert artifacts_mentioning(phrases) == 0
    assert {"runs/" + run_id + "/plan.parquet"} <= holding(
        store, prefix, [f"{prefix}/in/reused.png"]
    )
    assert len(list(store.list(f"{prefix}/out/images/"))) == 2


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_row_that_is_no_row_is_forgotten_by_what_its_escapes_mean(
    store: Store, prefix: str, picture: Make, kind: str
) -> None:
    name = 'caf\u00e9 12" \\ x.png'
    store.put(f"{prefix}/in/{name}", picture(seed=7022), "image/png")
    row = json.dumps({"id": "a", "task": "edit", "image": f"{prefix}/in/{name}", "prompt": "p"})
    written = name.replace('"', '""')
    body = {
        "jsonl": f"{row}\n{row[:-1]},,}}\n",
        "csv": f'id,task,image,prompt\na,edit,"{prefix}/in/{written}"x,p\n'
        f"b,edit,{prefix}/in/x.png,p\n",
    }[kind]
    store.put(f"{prefix}/c.{kind}", body.encode(), "text/plain")
    edit_catalog(
        catalog=f"{prefix}/c.{kind}", output=f"{prefix}/out", variant="toy", return_state=True
    )
    rejects = [each.uri for each in store.list(f"{prefix}/out/runs/") if "/rejects" in each.uri]
    assert b"x.png" in store.get(rejects[0])
    forgotten(prefix, source=f"{prefix}/in/{name}")
    assert b"x.png" not in store.get(rejects[0])
    assert b"12" not in store.get(rejects[0])


def test_a_row_that_is_called_like_its_file_is_mentioned_no_more(
    store: Store, prefix: str, picture: Make
) -> None:
    """Its artifacts name a failed or discarded row, but no URI of it."""
    name = "anna_jones_4711.png"
    store.put(f"{prefix}/in/{name}", picture(seed=7023), "image/png")
    store.put(f"{prefix}/in/mug.png", picture(seed=1), "image/png")
    common = {
        "source": f"{prefix}/in",
        "output": f"{prefix}/out",
        "prompt": "p",
        "variant": "toy",
        "pixels": {"steps": 1},
        "return_state": True,
    }
    restyle_catalog(mask="alpha", **common)
    state = restyle_catalog(review={"review_below": 1.0}, **common)
    run_id = Summary.model_validate(state.result(raise_on_failure=False)).run_id
    review_run(output=f"{prefix}/out", run=run_id, discard=name, return_state=True)
    assert artifacts_mentioning([name]) > 4
    forgotten(prefix, source=f"{prefix}/in/{name}")
    assert artifacts_mentioning([name]) == 0
    assert holding(store, prefix, [name]) == set()


def test_by_its_hash_a_source_is_forgotten_wherever_a_list_names_it(
    store: Store, prefix: str, picture: Make
) -> None:
    """Among a row's references, in a reject that quotes its row, and in what a run made of a feed.
    Files of somebody else lie beside ours, and stay.
    """
    person, other = picture(seed=7030), picture(seed=7031)
    source = f"{prefix}/in/person.png"
    store.put(source, person, "image/png")
    store.put(f"{prefix}/in/other.png", other, "image/png")
    tried_on = {
        "task": "try_on",
        "image": f"{prefix}/in/other.png",
        "mask": "alpha",
        "reference": [f"{prefix}/in/other.png", source],
    }
    rows = [
        {"id": "it", "task": "edit", "image": source},
        tried_on | {"id": "failed"},
        tried_on | {"id": "odd", "steps": -1},
    ]
    run_id = edit(prefix, rows, store).run_id
    table = f"{prefix}/feed.csv"
    store.put(table, f"id,image\na,{prefix}/in/other.png\nb,at {source}\n".encode(), "text/csv")
    state = restyle_catalog(
        source=table,
        output=f"{prefix}/out",
        prompt="p",
        variant="toy",
        pixels={"steps": 1},
        return_state=True,
    )
    fed = Summary.model_validate(state.result(raise_on_failure=False)).run_id
    runs = f"{prefix}/out/runs"
    for uri in (
        f"{runs}/{run_id}/failures.jsonl",
        f"{runs}/{run_id}/rejects.jsonl",
        f"{runs}/{fed}/catalog.jsonl",
    ):
        assert source.encode() in store.get(uri), uri
    theirs = {
        f"{prefix}/out/records/00/theirs.json": b'{"shop": 1}',
        f"{prefix}/out/failures/00/theirs.json": b"\xff no JSON",
        f"{runs}/{run_id}/canary.json": b"no JSON either",
    }
    for uri, body in theirs.items():
        store.put(uri, body, "application/json")
    forgotten(prefix, source=hashlib.sha256(person).hexdigest())
    store.delete(table)  # the user's own
    assert holding(store, prefix, [source, hashlib.sha256(person).hexdigest()]) == set()
    assert {uri: store.get(uri) for uri in theirs} == theirs
    assert store.get(f"{runs}/{fed}/catalog.jsonl").count(b"other.png") == 1


def test_what_goes_between_look_and_deletion_ends_neither(
    store: Store, prefix: str, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deletes a record that was just listed; of the first pictures, none is left."""
    source = f"{prefix}/in/a.png"
    store.put(source, picture(seed=7032), "image/png")
    row = {"task": "edit", "image": source}
    summary = edit(prefix, [row | {"id": "a", "seed": 1}, row | {"id": "b", "seed": 2}], store)
    records = [each.uri for each in store.list(f"{prefix}/out/records/")]
    item_id = records[1].rpartition("/")[2].removesuffix(".json")
    place = (store, f"{prefix}/out", summary.run_id)
    Trial(items={"a": item_id, "other": "0" * 64}).write(*place)

    def list_then_delete(uri: str) -> list[Any]:
        found = [*listed(uri)]
        if uri == f"{prefix}/out/records/":
            store.delete(records[0])
        return found

    listed = store.list
    forgetting = Forget(store, store, f"{prefix}/out", source)
    with monkeypatch.context() as patch:
        patch.setattr(store, "list", list_then_delete)
        deletion = forgetting.look()
    assert deletion.counts()["items"] == 2  # the plan still tells of both
    assert [uri for uri in deletion.rewritten if uri.endswith("/canary.json")]
    Trial(items={"a": item_id}).write(*place)
    forgetting.write_tombstones(deletion, by="test")
    forgetting.delete(deletion)
    assert Trial.read(*place) is None
    assert holding(store, prefix, [source]) == set()
