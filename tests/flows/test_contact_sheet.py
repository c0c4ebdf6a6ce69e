"""Test what a run shows of itself on its contact sheet. If these break, failures are not on it, a run
of a million rows holds them all in memory, or a night is paid for before a person sees a picture."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ace_tasks.errors import NotFound
from ace_tasks.plan.plan_file import PlannedRow
from ace_tasks.provenance.keys import report_key
from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.runs.report import pages as pages_module
from ace_tasks.runs.report.pages import PAGE_ITEMS
from ace_tasks.runs.results import Summary
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.steps import contact_sheet
from flows.steps.contact_sheet import pause_s
from flows.steps.run_results import RunResults, open_results
from flows.ui.sheet import PublishedSheet, link_to
from infra.prefect_server import PrefectServer
from tests.support import sheets
from tests.support.patience import wait_until
from tests.support.pool_here import PoolHere
from tests.support.sheets import entry


def reports(server: PrefectServer, key: str, run_id: str | None = None) -> list[dict[str, Any]]:
    """The artifacts of this key that link to a contact sheet."""
    wanted: dict[str, Any] = {"artifacts": {"key": {"any_": [f"{key}-report"]}}}
    if run_id:
        wanted["artifacts"]["flow_run_id"] = {"any_": [run_id]}
    found = httpx.post(f"{server.ui_url}/api/artifacts/filter", json=wanted).raise_for_status()
    return list(found.json())


@pytest.fixture
def edited(tmp_path: Path) -> RunResults:
    """Room for four rows."""
    with open_results(tmp_path, max_shown=4) as edited:
        return edited


def offer(edited: RunResults, line: int, status: str = "done", hints: str | None = None) -> None:
    row = {"id": f"row-{line}", "task": "edit", "image": "s3://b/i"}
    each = entry(row, line=line, status=status, hints=hints)
    item, result = each.item, each.result
    # As an earlier run's rows come, and as this one's do.
    planned = PlannedRow(
        line, item.row_id, item.item_id, item.spec.task, None, item.model_dump_json()
    )
    edited.offer(result, planned if line % 2 else item)


def test_failures_come_first_and_take_the_places_of_others(edited: RunResults) -> None:
    for line in (9, 8, 7, 6, 5):
        offer(edited, line)
    for line in (4, 3):
        offer(edited, line, "failed")
    offer(edited, 2)
    assert [each.line for each in edited.sample()] == [3, 4, 8, 9]
    assert [edited.item_of(each).row_id for each in edited.sample()] == [
        "row-3",
        "row-4",
        "row-8",
        "row-9",
    ]
    for line in (12, 11, 10):
        offer(edited, line, "failed_before")
    assert [each.line for each in edited.sample()] == [3, 4, 11, 12]  # and no room is left


def test_rows_with_a_hint_come_next(edited: RunResults) -> None:
    for line in (5, 6, 7, 8):
        offer(edited, line)
    offer(edited, 9, hints="its mask …")
    offer(edited, 10, "failed")
    assert [each.line for each in edited.sample()] == [10, 9, 5, 6]
    for line in (11, 12):
        offer(edited, line, "failed")
    offer(edited, 13, hints="its mask …")
    assert [each.line for each in edited.sample()] == [10, 11, 12, 9]
    offer(edited, 14, "failed")
    assert [each.line for each in edited.sample()] == [10, 11, 12, 14]


def test_every_page_is_in_the_store_and_the_first_is_linked(
    store: Store, prefix: str, prefect_server: PrefectServer
) -> None:
    row = {"task": "edit", "image": "s3://b/i"}
    entries = [entry(row, line=n, problem="gone") for n in range(PAGE_ITEMS + 1)]

    def uri_of(page: int) -> str:
        return join_uri(prefix, report_key("r", page))

    place = PublishedSheet("pages", uri_of, store)
    place.publish(sheets.sheet([], store, store))  # as it is before the first picture
    first = place.publish(sheets.sheet(entries, store, store))
    assert first == f"{prefix}/runs/r/report.html"
    there = [each.uri.removeprefix(f"{prefix}/runs/r/") for each in store.list(f"{prefix}/")]
    assert there == ["report-2.html", "report.html"]
    (artifact,) = reports(prefect_server, "pages")
    assert "/runs/r/report.html?" in artifact["data"]
    assert first in artifact["description"]
    second = store.get(uri_of(2)).decode()
    assert second.count("<article") == 1
    assert "/runs/r/report.html?" in second  # the signed way back


@pytest.mark.parametrize(
    ("base", "place"),
    [
        pytest.param("https://cdn.shop.example/", "https://cdn.shop.example", id="whole"),
        pytest.param("https://{bucket}.shop.example", "https://pictures.shop.example", id="host"),
        pytest.param("https://s3.example/{bucket}/", "https://s3.example/pictures", id="path"),
    ],
)
def test_a_public_address_takes_the_buckets_place(store: Store, base: str, place: str) -> None:
    link = link_to("s3://pictures/out/a b/report.html", store, base)
    assert link == f"{place}/out/a%20b/report.html"


# ---------------------------------------------------------------- while a run works


def test_a_run_is_seen_from_its_first_picture_on(
    replicas_here: None,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
    prefect_server: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each item waits until a person can see those before it."""
    for name in ("_SHORTEST_PAUSE_S", "_LONGEST_PAUSE_S", "_PAUSE_PER_WRITE"):
        monkeypatch.setattr(contact_sheet, name, 0)
    monkeypatch.setattr(contact_sheet, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(contact_sheet, "NEWEST", 2)
    cards: Counter[str] = Counter()
    seen: list[list[str]] = []

    def make_card(*given: Any) -> Any:
        cards[given[0].item.row_id] += 1
        return whole(*given)

    def shown() -> list[str] | None:
        try:
            (page,) = (each for each in store.list(f"{prefix}/out/runs/") if ".html" in each.uri)
            return re.findall('data-row="([^"]+)"', store.get(page.uri).decode())
        except (ValueError, NotFound):
            return None

    class Watched(PoolHere):
        def _run(self, item: WorkItem, shard: int) -> Outcome:
            want = list(reversed(made))[:2]
            wait_until(lambda: shown() == want, f"{want} on the sheet", output=lambda: str(shown()))
            seen.append(want)
            (linked,) = reports(prefect_server, "edit-catalog", self.run_id)
            assert "/report.html?" in linked["data"]
            made.append(item.row_id)
            return super()._run(item, shard)

        def __init__(self, *given: Any, **more: Any):
            super().__init__(*given, **more)
            self.run_id = given[2]

    whole, made = pages_module.make_card, list[str]()
    monkeypatch.setattr(pages_module, "make_card", make_card)
    monkeypatch.setattr("flows.steps.pool.Dispatcher", Watched)
    rows = []
    for number in range(4):
        image = f"{prefix}/in/{number}.png"
        if number != 2:  # that one fails
            store.put(image, picture(seed=number), "image/png")
        row = {"id": f"row-{number}", "task": "edit", "image": image, "prompt": "p", "steps": 1}
        rows.append(json.dumps(row))
    store.put(f"{prefix}/c.jsonl", "\n".join(rows).encode(), "text/plain")
    state = edit_catalog(f"{prefix}/c.jsonl", f"{prefix}/out", "toy", return_state=True)
    summary = Summary.model_validate(state.result(raise_on_failure=False))
    assert (summary.done, summary.failed) == (3, 1)
    assert len(seen) == 4
    assert all(cards[row_id] == 2 for row_id in made[:3])  # once while it worked, once at the end

    # At the end all rows are there, failures first, under the link that was there all along.
    assert shown() == ["row-2", *sorted({*made} - {"row-2"})]
    (linked,) = reports(prefect_server, "edit-catalog", summary.run_id)
    assert "/report.html?" in linked["data"]


def test_a_night_costs_a_bounded_number_of_sheets() -> None:
    """Each write takes two seconds here; then as long as a slow store takes."""
    for took_s, most in ((2.0, 150), (60.0, 40)):
        now_s, writes = 0.0, 0
        while now_s < 10 * 3600:
            now_s += took_s + pause_s(now_s, took_s)
            writes += 1
        assert writes <= most
        assert writes * took_s <= now_s / 20
    assert pause_s(0, 0.2) <= 10  # in its first minute a person sees several
