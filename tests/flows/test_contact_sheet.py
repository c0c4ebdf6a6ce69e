"""What a run shows of itself on its contact sheet. If these break, failures are not on it, or a run
of a million rows holds them all in memory."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ace_tasks.plan.plan_file import PlannedRow
from ace_tasks.provenance.keys import report_key
from ace_tasks.runs.report.pages import PAGE_ITEMS
from ace_tasks.store import Store, join_uri
from flows.steps.run_results import RunResults, open_results
from flows.ui.sheet import link_to, publish_sheet
from infra.prefect_server import PrefectServer
from tests.support import sheets
from tests.support.sheets import entry


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

    first = publish_sheet(sheets.sheet(entries, store, store), "pages", uri_of, store)
    assert first == f"{prefix}/runs/r/report.html"
    there = [each.uri.removeprefix(f"{prefix}/runs/r/") for each in store.list(f"{prefix}/")]
    assert there == ["report-2.html", "report.html"]
    link = {"artifacts": {"key": {"any_": ["pages-report"]}}}
    (artifact,) = httpx.post(f"{prefect_server.ui_url}/api/artifacts/filter", json=link).json()
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
