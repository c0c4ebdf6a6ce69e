"""The tutorials in Chromium, followed as they are written. If these break, a newcomer's first hour
ends at a page that is not the one in the text. `make screenshots` keeps what these tests see."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ace_tasks.store import Store
from flows.edit_catalog import edit_catalog
from infra.demo import mirror, upload_people, upload_sample
from infra.prefect_server import PrefectServer
from infra.sample.make import BUCKET
from infra.services import ROOT
from tests.support.browser import chromium, new_page, screenshot
from tests.support.prefect_ui import (
    deployment,
    field,
    fill,
    open_ui,
    submit,
    wait_for_state,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.thorough

SHOWN = ("background-coffee", "edit-pink-chair")
TRY_ON = (ROOT / "docs" / "tutorial" / "first-try-on.md").read_text(encoding="utf-8")


@pytest.fixture
def sheet(store: Store, prefix: str, replicas_here: None, tmp_path: Path) -> Path:
    """Edit two rows of the demo. Return their contact sheet, as `make demo` leaves it on disk."""
    upload_sample(store)
    rows = (ROOT / "infra" / "sample" / "catalog.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [each for each in rows if json.loads(each)["id"] in SHOWN]
    store.put(f"s3://{BUCKET}/two.jsonl", "\n".join(chosen).encode(), "text/plain")
    catalog, output = f"s3://{BUCKET}/two.jsonl", f"{prefix}/out"
    state = edit_catalog(catalog=catalog, output=output, variant="mini", return_state=True)
    assert state.is_completed(), state.message
    report = mirror(store, output, tmp_path / "demo")
    assert report
    return report


def test_the_demos_contact_sheet_compares_before_and_after(sheet: Path) -> None:
    from playwright.sync_api import expect

    with chromium() as browser:
        page = new_page(browser, viewport={"width": 960, "height": 800})
        page.goto(sheet.as_uri())
        expect(page.locator("article[data-status=done]")).to_have_count(len(SHOWN))
        expect(page.get_by_role("slider")).to_have_count(len(SHOWN))
        box = page.get_by_role("main").bounding_box()
        assert box
        clip = (0, box["y"], 960, min(box["height"], 800 - box["y"]))
        screenshot(page, "tutorial-contact-sheet", clip=clip)


@pytest.fixture
def page(store: Store, prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Page]:
    upload_people(store)
    with open_ui(prefect_server, tmp_path / "worker.log") as (page, _):
        page.set_viewport_size({"width": 1100, "height": 1400})  # it draws what is in sight
        yield page


def shoot(page: Page, name: str, top: float, end: float) -> None:
    """Save a part of Prefect's UI, without the menu on its left. `top` and `end` are in px."""
    screenshot(page, f"tutorial-{name}", clip=(256, top - 12, 844, end - top + 24))


def written_fields() -> dict[str, str]:
    """Return the fields of the form, as the tutorial's first list has them, and its prompt."""
    first = TRY_ON.partition("## Run it and look")[0]
    fields = dict(re.findall(r"^ +- `(\w+)`: .*?`([^`]+)`[;.]$", first, re.MULTILINE))
    (prompt,) = re.findall(r"was taught \*([^*]+)\*", first)
    return fields | {"prompt": prompt}


def test_a_first_try_on_batch_ends_at_its_contact_sheet(
    page: Page, prefect_server: PrefectServer
) -> None:
    fields = written_fields()
    assert set(fields) == {"people", "garments", "output", "variant", "masks", "prompt"}
    # The list draws its first ten only, until one scrolls.
    place = deployment(prefect_server, "try-on-batch")["id"]
    page.goto(f"{prefect_server.ui_url}/deployments/deployment/{place}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    fill(page, **fields)
    top = page.get_by_role("heading", name="Parameters").bounding_box()
    end = field(page, "prompt").bounding_box()
    assert top
    assert end
    shoot(page, "form", top["y"], end["y"] + end["height"])
    submit(page, prefect_server)
    wait_for_state(page, "Completed")
    page.get_by_text(f"try {fields['garments']} on").first.wait_for()
    shoot(page, "run", 0, 200)
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="try-on-batch-report").wait_for()
    tabs = page.get_by_role("tablist").bounding_box()
    assert tabs
    next_part = page.get_by_text("Task runs", exact=True).bounding_box()
    assert next_part
    shoot(page, "artifacts", tabs["y"], next_part["y"] - 40)
    page.get_by_role("link", name="try-on-batch-report").click()
    link = page.get_by_role("link", name="contact sheet")
    link.wait_for()
    page.goto(str(link.get_attribute("href")))
    assert page.get_by_role("article").count() == 9
    page.set_viewport_size({"width": 960, "height": 700})
    screenshot(page, "tutorial-looks")
