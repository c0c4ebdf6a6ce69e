"""Test a person's word, given in Prefect's UI and on our pages: a run watched from its first picture
on, approved, rejected or cancelled; forty pictures decided. If these break, a run waits for ever, or
goes on against what somebody clicked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from playwright.sync_api import expect

from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import Summary
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.review_run import review_run
from infra.prefect_server import PrefectServer
from infra.services import Service
from tests.support.browser import screenshot
from tests.support.patience import limit_s, wait_until
from tests.support.pool_here import PoolHere
from tests.support.prefect_ui import (
    CLASSIC,
    UIS,
    choose,
    deployment,
    field,
    fill,
    open_form,
    open_ui,
    send,
    submit,
    wait_for_state,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def ui(
    object_store: Any, prefect_server: Any, weights_dir: Any, tmp_path_factory: Any
) -> Iterator[tuple[Page, Service]]:
    with open_ui(prefect_server, tmp_path_factory.mktemp("worker") / "worker.log") as ui:
        yield ui


@pytest.fixture
def page(ui: tuple[Page, Service]) -> Page:
    return ui[0]


@pytest.fixture
def worker(ui: tuple[Page, Service]) -> Service:
    return ui[1]


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Callable[..., bytes]) -> Callable[..., str]:
    def write(rows: int, steps: int = 1) -> str:
        store.put(f"{prefix}/in.png", picture(), "image/png")
        lines = [
            json.dumps(
                {
                    "id": f"mug-{n}",
                    "task": "edit",
                    "image": f"{prefix}/in.png",
                    "prompt": f"mug {n}",
                    "steps": steps,
                }
            )
            for n in range(rows)
        ]
        uri = f"{prefix}/catalog.jsonl"
        store.put(uri, "\n".join(lines).encode(), "text/plain")
        return uri

    return write


@pytest.fixture
def start(
    page: Page, prefect_server: PrefectServer, prefix: str, catalog: Callable[..., str]
) -> Callable[..., None]:
    def start(rows: int, steps: int = 1, **values: str) -> None:
        open_form(page, prefect_server, deployment(prefect_server, "edit-catalog")["id"])
        place = catalog(rows, steps)
        fill(page, output=f"{prefix}/out", variant="toy", catalog=place, **values)
        submit(page, prefect_server)

    return start


def published(store: Store, prefix: str) -> set[str]:
    found = (each.uri for each in store.list(join_uri(prefix, "out/images/")))
    return {uri.split("/images/")[1].split("/")[0] for uri in found}


def open_answer(page: Page) -> Locator:
    """Open the form in which a suspended run is answered."""
    page.get_by_role("button", name="Resume").first.click()
    dialog = page.get_by_role("dialog")
    decision = field(page, "Decision").locator(".p-select-button")
    expect(decision).not_to_have_text(re.compile("approve|reject"))  # no word is put into a mouth
    return dialog


def answer(page: Page, dialog: Locator, decision: str, **values: str) -> None:
    choose(page, "Decision", decision)
    fill(page, **values)
    screenshot(page, f"approval-2-{decision.replace(' ', '-')}")
    result = send(page, dialog.get_by_role("button", name="Submit"), "resume")
    assert result["status"] == "ACCEPT", result


def test_pictures_that_are_rejected_are_the_only_ones(
    page: Page, start: Callable[..., None], store: Store, prefix: str
) -> None:
    start(5, canary="2")
    wait_for_state(page, "Suspended")
    answer(page, open_answer(page), "reject")
    wait_for_state(page, "Rejected")
    screenshot(page, "approval-4-rejected")
    assert published(store, prefix) == set()
    assert not list(store.list(f"{prefix}/out/review/"))


def test_the_first_pictures_are_looked_at_and_approved_with_another_prompt(
    page: Page, start: Callable[..., None], store: Store, prefix: str
) -> None:
    """`test_canary` approves them as they are."""
    start(3, canary="1")
    wait_for_state(page, "Suspended")
    screenshot(page, "approval-1-suspended")
    assert published(store, prefix) == set()
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="review-run-report").wait_for()
    dialog = open_answer(page)
    assert dialog.locator(CLASSIC.json_editor).count() == 0
    answer(page, dialog, "approve with changes", Prompt="{prompt} at dawn", Seed="7")
    wait_for_state(page, "Completed")
    screenshot(page, "approval-3-completed")
    assert published(store, prefix) == {f"mug-{n}" for n in range(3)}
    records = [store.get(each.uri) for each in store.list(f"{prefix}/out/records/")]
    specs = [Record.model_validate_json(each).spec for each in records]
    assert {(each["prompt"], each["seed"]) for each in specs} == {
        (f"mug {n} at dawn", 7) for n in range(3)
    }


def test_a_run_is_cancelled_by_a_click(
    page: Page, worker: Service, start: Callable[..., None], store: Store, prefix: str
) -> None:
    # Minutes of work, whatever is done in between.
    start(300, steps=200)
    wait_until(lambda: published(store, prefix), "a picture", output=worker.log_tail)
    (of_prefect,) = psutil.Process(worker.process.pid).children()
    family = of_prefect.children(recursive=True)
    assert any("ray" in each.name() for each in family)
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    dialog = page.get_by_role("dialog")
    screenshot(page, "cancel-1-asked")
    result = send(page, dialog.get_by_role("button", name="Confirm"), "set_state")
    assert result["status"] == "ACCEPT", result
    wait_for_state(page, "Cancelled")
    screenshot(page, "cancel-2-cancelled")
    # Nothing works on where nobody looks.
    _, alive = psutil.wait_procs(family, timeout=limit_s())
    assert [each.cmdline() for each in alive] == []
    assert 0 < len(published(store, prefix)) < 300


# ---------------------------------------------------------------- our own pages


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Run a flow beside the browser, whose thread can run no other event loop.

    Gives the name of the state in which it ended, and its result.
    """

    def run(flow: Any, given: dict[str, Any]) -> tuple[str, Any]:
        state = flow(return_state=True, **given)
        return state.name, state.result(raise_on_failure=False)

    with ThreadPoolExecutor(1) as pool:
        yield lambda flow, **given: pool.submit(copy_context().run, run, flow, given)


def test_a_run_is_watched_from_its_first_picture_on(
    page: Page,
    prefect_server: PrefectServer,
    replicas_here: None,
    monkeypatch: pytest.MonkeyPatch,
    catalog: Callable[..., str],
    prefix: str,
    tmp_path: Path,
    aside: Callable[..., Future[Any]],
) -> None:
    class Slow(PoolHere):
        def _run(self, item: WorkItem, shard: int) -> Outcome:
            file = tmp_path / f"go-{self.status.done}"
            wait_until(file.exists, f"{file.name}, which lets the next picture be made")
            return super()._run(item, shard)

    monkeypatch.setattr("flows.steps.contact_sheet._SHORTEST_PAUSE_S", 0)
    monkeypatch.setattr("flows.steps.contact_sheet._PAUSE_PER_WRITE", 0)
    monkeypatch.setattr("flows.steps.contact_sheet._GROWTH", 0)
    monkeypatch.setattr("flows.steps.pool.Dispatcher", Slow)
    running = aside(edit_catalog, catalog=catalog(3), output=f"{prefix}/out", variant="toy")
    page.goto(f"{prefect_server.ui_url}/runs")
    page.get_by_role("link", name=f"edit {prefix}/catalog.jsonl with toy").first.click()
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="edit-catalog-report").click()
    link = page.get_by_role("link", name="contact sheet")
    sheet = page.context.new_page()
    sheet.goto(str(link.get_attribute("href")))
    expect(sheet.get_by_text("0 done, 0 failed, of 3 to do")).to_be_visible()
    for number in range(2):
        (tmp_path / f"go-{number}").touch()

        def shows(count: int = number + 1) -> bool:
            sheet.reload()
            return sheet.get_by_role("article").count() == count

        wait_until(shows, f"picture {number + 1} on the sheet", output=sheet.content)
    assert not running.done()  # a person could cancel it now
    screenshot(sheet, "sheet-while-it-works")
    (tmp_path / "go-2").touch()
    assert running.result(limit_s())[0] == "Completed"
    sheet.reload()
    expect(sheet.get_by_role("article")).to_have_count(3)
    expect(sheet.get_by_text("3 done, 0 done before")).to_be_visible()
    sheet.close()


def test_forty_pictures_are_decided_and_carried_out_by_the_filled_in_link(
    page: Page,
    prefect_server: PrefectServer,
    replicas_here: None,
    catalog: Callable[..., str],
    store: Store,
    prefix: str,
    aside: Callable[..., Future[Any]],
) -> None:
    place = {"output": f"{prefix}/out"}
    strict = {"review_below": 1.0}
    given = {"catalog": catalog(40), "variant": "toy", "review": strict, **place}
    _, made = aside(edit_catalog, **given).result(limit_s())
    run_id = Summary.model_validate(made).run_id
    _, shown = aside(review_run, run=run_id, **place).result(limit_s())

    review = page.context.new_page()
    review.goto(store.presign(shown["report"]))
    counts = review.get_by_role("complementary").get_by_role("status")
    review.get_by_role("button", name="Next undecided").click()
    for number in range(20):
        review.keyboard.press("r" if number % 4 == 0 else "k")
    expect(counts).to_contain_text("15 kept, 5 rejected, 20 undecided")
    review.reload()  # half-way
    expect(counts).to_contain_text("15 kept, 5 rejected, 20 undecided")
    review.get_by_role("combobox", name="Decision").select_option("undecided")
    for _ in range(18):
        review.get_by_role("radio", name="keep").first.check()
        review.get_by_role("button", name="Next undecided").click()
    expect(counts).to_contain_text("33 kept, 5 rejected, 2 undecided")
    screenshot(review, "review-decided")

    for name, ui in (
        ("in Prefect's new UI", "v2"),
        ("the form of review-run, filled in", "classic"),
    ):
        with page.context.expect_page() as opened:
            review.get_by_role("link", name=name).click()
        form = opened.value
        form.get_by_role("heading", name="Parameters").wait_for()
        for parameter, value in (("output", place["output"]), ("run", run_id)):
            control = field(form, parameter, UIS[ui]).locator("input, textarea")
            expect(control).to_have_value(value)
        promoted = field(form, "promote", UIS[ui]).locator("input, textarea")
        expect(promoted).to_have_value(re.compile(r"^(mug-\d+,){32}mug-\d+$"))
        screenshot(form, f"review-form-{ui}")
    submit(form, prefect_server)
    wait_for_state(form, "Completed")
    assert len(published(store, prefix)) == 33
    held = {each.uri.split("/")[-2] for each in store.list(f"{prefix}/out/review/")}
    assert len(held) == 2  # undecided
    form.close()
    review.close()
