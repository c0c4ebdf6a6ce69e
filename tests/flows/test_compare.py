"""A comparison on a real Prefect server and a real store. If these break, a shop pays twice for the
pictures that it has chosen by, or pays for alternatives that cannot be compared."""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from ace_tasks.errors import SettingsError
from ace_tasks.provenance.keys import ending_key, plan_key, record_key, report_key
from ace_tasks.provenance.record import Record
from ace_tasks.runs.history import newest_run, past_runs
from ace_tasks.runs.results import Summary
from ace_tasks.runs.sweep import sweep
from ace_tasks.store import Store
from flows.audit_run import audit_run
from flows.compare import compare
from flows.edit_catalog import edit_catalog
from flows.forget import forget
from flows.restyle_catalog import restyle_catalog
from flows.review_run import review_run
from tests.support.grouped import grouped

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]
THREE = {"first": "marble: on marble", "second": "oak: on oak", "third": "slow: steps=2; seed=7"}


@pytest.fixture
def source(store: Store, prefix: str, picture: Make) -> str:
    for number in range(4):
        store.put(f"{prefix}/in/{number}.png", picture(seed=number), "image/png")
    return f"{prefix}/in"


def compared(source: str, prefix: str, **parameters: Any) -> Any:
    wishes = {"variant": "toy", "prompt": "as it is", "steps": 1, "rows": 2} | parameters
    given = grouped(compare, **wishes)
    return compare(source=source, output=f"{prefix}/out", return_state=True, **given)


def records(store: Store, prefix: str) -> list[Record]:
    found = store.list(f"{prefix}/out/records/")
    return [Record.model_validate_json(store.get(each.uri)) for each in found]


def test_the_whole_run_finds_the_pictures_of_the_chosen_alternative_done(
    store: Store, prefix: str, source: str
) -> None:
    state = compared(source, prefix, rows=1, limit=2, first=THREE["third"], third=THREE["first"])
    assert state.name == "Completed", state.message
    data = state.result()
    assert len(records(store, prefix)) == 2
    before = {each.uri for each in store.list(f"{prefix}/out/images/")}

    assert "Choose slow" in httpx.get(data["page"]).text
    (comparison,) = (each.run_id for each in past_runs(store, f"{prefix}/out") if each.ending)
    asked = review_run(f"{prefix}/out", comparison, return_state=True)
    assert "a comparison, whose alternatives are runs of their own" in asked.message

    chosen = data["alternatives"][0]
    assert chosen["name"] == "slow"
    whole = restyle_catalog(**chosen["parameters"], return_state=True)
    summary = Summary.model_validate(whole.result())
    assert (summary.done, summary.done_before) == (1, 1)
    audit = audit_run(f"{prefix}/out", summary.run_id, return_state=True)
    assert audit.name == "Completed", audit.message
    assert newest_run(store, f"{prefix}/out") == summary.run_id
    after = {each.uri for each in store.list(f"{prefix}/out/images/")}
    assert before < after
    assert len(after) == 2 + 1  # none was made twice
    assert list(sweep(store, f"{prefix}/out", 0, delete=True)) == []
    assert {each.uri for each in store.list(f"{prefix}/out/images/")} == after

    # The comparison planned this picture, but only the whole run made it.
    lost = next(each for each in records(store, prefix) if each.run.run_id == summary.run_id)
    store.delete(f"{prefix}/out/{record_key(lost.item_id)}")
    assert list(sweep(store, f"{prefix}/out", 0, comparison, delete=True)) == []
    swept = list(sweep(store, f"{prefix}/out", 0, summary.run_id, delete=False))
    assert [each.uri for each in swept] == [lost.output.uri]


@pytest.mark.thorough
def test_what_was_compared_is_known_afterwards(store: Store, prefix: str, source: str) -> None:
    """A sweep after a cancel, too, knows what the alternatives can have left."""
    state = compared(source, prefix, **THREE)
    run_ids = {each["name"]: each["run_id"] for each in state.result()["alternatives"]}
    runs = past_runs(store, f"{prefix}/out")
    (whole,) = (each for each in runs if each.ending)
    assert whole.ending
    assert whole.ending.alternatives == run_ids
    assert whole.ending.line == "compared on 2 pictures: marble, oak, slow"
    parts = {each.run_id: each.summary for each in runs if each.summary}
    assert {each.flow for each in parts.values()} == {  # type: ignore[union-attr]
        "compare-first", "compare-second", "compare-third"
    }  # fmt: skip
    for run_id in run_ids.values():
        audit = audit_run(f"{prefix}/out", run_id, return_state=True)
        assert audit.name == "Completed", audit.message
    with pytest.raises(SettingsError, match="no run over a catalog has"):
        newest_run(store, f"{prefix}/out")

    page = store.get(f"{prefix}/out/{report_key(whole.run_id)}").decode()
    assert page.count('alt="oak of ') == page.count('alt="source of ') == 2
    assert "<span>restyle</span>" in page
    assert re.search(r"at most 2 more pictures: about \d+ s of a replica", page)

    lost = next(each for each in records(store, prefix) if each.spec["prompt"] == "on oak")
    store.delete(f"{prefix}/out/{record_key(lost.item_id)}")
    swept = list(sweep(store, f"{prefix}/out", 0, whole.run_id, delete=False))
    assert [each.uri for each in swept] == [lost.output.uri]


@pytest.mark.thorough
def test_limits_hold_for_all_alternatives_together_and_a_cut_comparison_goes_on(
    store: Store, prefix: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "3600")
    dry = compared(source, prefix, dry_run=True, **THREE)
    assert dry.message.startswith("dry run: 6 items to do, about ")
    hours = dry.result()["replica_hours"]
    refused = compared(source, prefix, max_replica_hours=0.9 * hours, **THREE)
    assert refused.name == "Failed"
    assert "6 items to do would take about" in refused.message
    assert records(store, prefix) == []

    # Less than a picture takes, though the estimate does not know it.
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "1e-9")
    cut = compared(source, prefix, max_replica_hours=1e-7, **THREE)
    assert "the run has taken" in cut.message
    made = {each.item_id for each in records(store, prefix)}
    assert 0 < len(made) < 6
    whole = compared(source, prefix, **THREE)
    assert whole.name == "Completed", whole.message
    assert made < {each.item_id for each in records(store, prefix)}
    assert len(list(store.list(f"{prefix}/out/images/"))) == 6


def test_two_that_make_the_same_pictures_are_refused_before_anything_is_paid(
    store: Store, prefix: str, source: str
) -> None:
    state = compared(source, prefix, first="a: on oak; speed=exact", second="b: on oak")
    assert "given 'a' and 'b', which make the same" in state.message
    assert records(store, prefix) == []
    endings = [each.ending.state for each in past_runs(store, f"{prefix}/out") if each.ending]
    assert endings == ["Refused"] * 3


@pytest.mark.parametrize("what", [pytest.param("source", marks=pytest.mark.thorough), "run"])
def test_the_page_goes_with_a_picture_that_it_shows(
    store: Store, prefix: str, source: str, what: str
) -> None:
    state = compared(source, prefix, rows=1, limit=2, first=THREE["first"], second=THREE["second"])
    data = state.result()
    shown = next(each for each in records(store, prefix) if each.spec["prompt"] == "on oak")
    assert shown.sources.image
    wanted = {"source": shown.sources.image.uri, "run": data["alternatives"][1]["run_id"]}
    page = store.get(data["report"]).decode()
    assert f"image {shown.sources.image.uri}, " in page
    assert f"output {shown.output.uri}; " in page

    gone = forget(f"{prefix}/out", delete=True, return_state=True, **{what: wanted[what]})
    assert gone.name == "Completed", gone.message
    assert list(store.list(data["report"])) == []


@pytest.mark.thorough
def test_a_comparison_that_ended_is_planned_anew_and_a_cut_one_goes_on(
    store: Store, prefix: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid.uuid4()))

    def again(prompt: str, **parameters: Any) -> Any:
        row = {"id": "r", "task": "edit", "image": f"{source}/0.png", "prompt": prompt, "steps": 1}
        store.put(f"{prefix}/rows.jsonl", json.dumps(row).encode(), "text/plain")
        ways = {"first": "plain", "second": "fast: speed=fast"}
        given = grouped(compare, variant="toy", whole_run="edit", rows=1, **ways, **parameters)
        return compare(f"{prefix}/rows.jsonl", f"{prefix}/out", return_state=True, **given)

    def prompts() -> list[str]:
        return sorted(each.spec["prompt"] for each in records(store, prefix))

    assert again("tried", dry_run=True).name == "Completed"
    # Less than a picture takes, though the estimate does not know it.
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "1e-9")
    assert "the run has taken" in again("old", max_replica_hours=1e-7).message
    assert prompts() == ["old"]
    assert again("new").name == "Completed"
    assert prompts() == ["old", "old"]
    assert again("new").name == "Completed"
    assert prompts() == ["new", "new", "old", "old"]


def test_a_refused_retry_takes_nothing_from_alternatives_that_ended(
    store: Store, prefix: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid.uuid4()))
    first = compared(source, prefix, rows=1, limit=1, first="a: on oak", second="b: on pine")
    parts = [each["run_id"] for each in first.result()["alternatives"]]
    for made in records(store, prefix):
        store.delete(f"{prefix}/out/{record_key(made.item_id)}")
    monkeypatch.setenv("ACE_SECONDS_PER_MILLION_TOKEN_STEPS", "3600")
    refused = compared(
        source,
        prefix,
        rows=1,
        limit=1,
        max_replica_hours=1e-7,
        first="a: on oak",
        second="b: on pine",
    )
    assert "would take about" in refused.message
    for run_id in parts:
        assert list(store.list(f"{prefix}/out/{plan_key(run_id)}"))
        assert not list(store.list(f"{prefix}/out/{ending_key(run_id)}"))
    states = [each.ending.state for each in past_runs(store, f"{prefix}/out") if each.ending]
    assert states == ["Refused"]  # the comparison itself


@pytest.mark.parametrize("place", [pytest.param("first", marks=pytest.mark.thorough), "second"])
def test_an_alternative_without_a_valid_row_is_refused_before_anything_is_paid(
    store: Store, prefix: str, source: str, place: str
) -> None:
    ways = {"first": "a: on oak", "second": "b: on pine"} | {place: f"long: {'x' * 5000}"}
    state = compared(source, prefix, rows=1, limit=2, **ways)
    assert "given 'long', which has none: " in state.message
    assert "column prompt: String should have at most" in state.message
    assert records(store, prefix) == []


def test_rows_of_a_catalog_are_compared_by_mask_and_a_failure_is_a_cell(
    store: Store, prefix: str
) -> None:
    for number in range(2):
        product = Image.new("RGB", (96, 64), "white")
        product.paste((200, 30 * number, 0), (30, 16, 62, 48))
        file = io.BytesIO()
        product.save(file, "PNG")
        store.put(f"{prefix}/in/{number}.png", file.getvalue(), "image/png")
    rows = [
        {
            "id": name,
            "task": "fill",
            "image": f"{prefix}/in/{name}.png",
            "mask": "auto",
            "prompt": "x",
        }
        for name in ("0", "1", "gone")
    ]
    text = "\n".join(json.dumps(each | {"steps": 1}) for each in rows)
    store.put(f"{prefix}/rows.jsonl", text.encode(), "text/plain")
    given = {"variant": "toy", "whole_run": "edit", "rows": 3}
    ways = {"first": "border: auto_mask=border", "second": "grabcut: auto_mask=grabcut"}
    wanted = grouped(compare, **given, **ways)
    output = f"{prefix}/out"
    state = compare(f"{prefix}/rows.jsonl", output, return_state=True, **wanted)
    assert state.name == "FinishedWithFailures"
    data = state.result(raise_on_failure=False)
    page = store.get(data["report"]).decode()
    assert page.count('aria-label="border of gone: no picture"') == 1
    assert "source_missing" not in page
    assert "1 row without a picture" in page
    whole = edit_catalog(**data["alternatives"][1]["parameters"], return_state=True)
    summary = Summary.model_validate(whole.result(raise_on_failure=False))
    assert (summary.done, summary.done_before) == (0, 2)
