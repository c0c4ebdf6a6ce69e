"""A person's word, given in Prefect's UI: the first pictures approved or rejected, a run cancelled.
If these break, a run waits for ever, or goes on against what somebody clicked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from playwright.sync_api import expect

from ace_tasks.provenance.record import Record
from ace_tasks.store import Store, join_uri
from infra.prefect_server import PrefectServer
from infra.services import Service
from tests.support.browser import screenshot
from tests.support.patience import limit_s, wait_until
from tests.support.prefect_ui import (
    CLASSIC,
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
    wait_for_state(page, "Suspended")
    page.get_by_role("button", name="Resume").first.click()
    dialog = page.get_by_role("dialog")
    decision = field(page, "Decision").locator(".p-select-button")
    expect(decision).not_to_have_text(re.compile("approve|reject"))  # no word is put into a mouth
    return dialog


def answer(page: Page, decision: str, **values: str) -> None:
    dialog = open_answer(page)
    choose(page, "Decision", decision)
    fill(page, **values)
    screenshot(page, f"approval-2-{decision.replace(' ', '-')}")
    send_answer(page, dialog)


def send_answer(page: Page, dialog: Locator) -> None:
    result = send(page, dialog.get_by_role("button", name="Submit"), "resume")
    assert result["status"] == "ACCEPT", result


def test_the_first_pictures_are_looked_at_and_approved(
    page: Page, start: Callable[..., None], store: Store, prefix: str
) -> None:
    start(5, canary="2")
    wait_for_state(page, "Suspended")
    screenshot(page, "approval-1-suspended")
    assert published(store, prefix) == set()
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="review-run-report").wait_for()
    dialog = open_answer(page)
    assert dialog.locator(CLASSIC.json_editor).count() == 0
    choose(page, "Decision", "approve")
    send_answer(page, dialog)
    wait_for_state(page, "Completed")
    screenshot(page, "approval-3-completed")
    assert published(store, prefix) == {f"mug-{n}" for n in range(5)}


def test_pictures_that_are_rejected_are_the_only_ones(
    page: Page, start: Callable[..., None], store: Store, prefix: str
) -> None:
    start(5, canary="2")
    answer(page, "reject")
    wait_for_state(page, "Rejected")
    screenshot(page, "approval-4-rejected")
    assert published(store, prefix) == set()
    assert not list(store.list(f"{prefix}/out/review/"))


def test_a_changed_prompt_makes_other_pictures(
    page: Page, start: Callable[..., None], store: Store, prefix: str
) -> None:
    start(3, canary="1")
    answer(page, "approve with changes", Prompt="{prompt} at dawn", Seed="7")
    wait_for_state(page, "Completed")
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
    family = psutil.Process(worker.process.pid).children(recursive=True)
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
