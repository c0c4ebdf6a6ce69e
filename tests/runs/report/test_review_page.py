"""Test a review's page in a browser: pictures kept and rejected, by mouse and by keyboard. If these
break, a person's work is lost at a reload, or another picture than the one looked at is published."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from ace_tasks.provenance.record import ReviewRecord
from ace_tasks.runs.decisions import DecisionsFile
from ace_tasks.runs.report.cards import Entry
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from tests.support import sheets
from tests.support.browser import OpenPage, screenshot, violations
from tests.support.sheets import entry, record

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.thorough

# Ids that a script could take for something of its own.
IDS = ["all", "__proto__", "constructor", *(f"Mug-{n}" for n in range(37))]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write sheets of every kind to a folder, as one has them on disk."""
    folder = tmp_path_factory.mktemp("review")
    held = waiting(folder, IDS)
    write(folder / "review.html", held, title="Waiting for a decision", panel=sheets.panel())
    alone = sheets.panel(classic_form=None, v2_form=None, afterwards="The run waits for you.")
    write(folder / "canary.html", held[:3], title="Waiting for a decision", panel=alone)
    long = waiting(folder, [f"{'long' * 30}-{n}" for n in range(80)])
    write(folder / "many.html", long, title="Waiting for a decision", panel=sheets.panel())
    note = "The run works; newest first. This page is written again while it does: reload it."
    write(folder / "empty.html", [], title="Edits of s3://shop/spring.jsonl", note=note)
    write(folder / "growing.html", finished(folder), title="Edits", note=note, total=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ace_tasks.runs.report.pages.PAGE_ITEMS", 3)
        write(folder / "page.html", held[3:9], title="Waiting", panel=sheets.panel())
    return folder


def write(path: Path, entries: list[Entry], **more: Any) -> None:
    store = Store(StoreSettings())
    sheet = sheets.sheet(entries, store, store, facts={"run": "run-1"}, **more)
    for number, html in enumerate(sheets.pages(sheet)):
        name = path.name if not number else f"report-{number + 1}.html"
        path.with_name(name).write_text(html)


def waiting(folder: Path, ids: list[str]) -> list[Entry]:
    made = []
    for number, row_id in enumerate(ids):
        before, after = sheets.pictures(folder, number % 8)
        row = {"id": row_id, "task": "edit", "image": before, "prompt": f"mug {number} " * 40}
        held = {"status": "failed", "error_code": "needs_review", "error": "blank"}
        each = entry(row, line=number, output_uri=after, **held)
        reasons = ReviewRecord(reasons=("accepted: at least 1; given 0.71",))
        made.append(replace(each, record=record(each, review=reasons)))
    return made


def finished(folder: Path) -> list[Entry]:
    """A failure, a hint, and a row with a mask and a reference."""
    before, after = sheets.pictures(folder, 0)
    row = {"task": "edit", "image": before, "prompt": "x"}
    failed = entry(row | {"id": "f"}, line=1, status="failed", error_code="timeout", error="900 s")
    masked = row | {"id": "m", "task": "try_on", "mask": {"box": [0, 0, 0.5, 0.5]}}
    worn = entry(
        masked | {"reference": [before]}, line=2, output_uri=after, hints="a map?", hint_codes="x"
    )
    mask = np.zeros((64, 96), np.uint8)
    mask[:32] = 255
    return [failed, replace(worn, record=record(worn, mask))]


def counts(page: Page) -> Any:
    return page.get_by_role("complementary", name="Decisions so far").get_by_role("status")


def saved(page: Page) -> DecisionsFile:
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save decisions").click()
    assert waiting.value.suggested_filename == "decisions-run-1.json"
    return DecisionsFile.model_validate_json(Path(waiting.value.path()).read_bytes())


def filled(page: Page, name: str, times: int) -> dict[str, str]:
    """Return what a form's link fills in, decoded as often as that UI does it."""
    href = str(page.get_by_role("link", name=name).get_attribute("href"))
    text = parse_qs(urlsplit(href).query)["parameters"][0]
    return dict(json.loads(unquote(text) if times == 2 else text))


CLASSIC, V2 = "the form of review-run, filled in", "in Prefect's new UI, filled in"


def test_forty_pictures_are_decided_by_keyboard_and_by_mouse_with_a_reload_half_way(
    open_page: OpenPage,
) -> None:
    from playwright.sync_api import expect

    page = open_page("review.html")
    expect(counts(page)).to_have_text("0 kept, 0 rejected, 40 undecided")
    page.get_by_role("button", name="Next undecided").click()
    for number in range(20):
        assert page.evaluate("document.activeElement.dataset.id") == IDS[number]
        page.keyboard.press("r" if number % 4 == 3 else "K")
    expect(counts(page)).to_have_text("Mug-16: reject. 15 kept, 5 rejected, 20 undecided")
    page.keyboard.press("p")
    page.keyboard.press("u")  # on second thoughts
    expect(counts(page)).to_have_text("Mug-16: undecided. 15 kept, 4 rejected, 21 undecided")
    screenshot(page, "review-half-way")

    page.reload()
    expect(counts(page)).to_have_text("15 kept, 4 rejected, 21 undecided")
    page.get_by_role("combobox", name="Decision").select_option("undecided")
    shown = page.get_by_role("article")
    expect(shown).to_have_count(21)
    for row_id in IDS[19:]:
        card = page.get_by_role("article", name=row_id, exact=True)
        card.get_by_role("radio", name="keep").check()
    expect(shown).to_have_count(21)  # nothing moves under the pointer
    page.get_by_role("button", name="Next undecided").click()
    expect(page.get_by_role("heading", name="Decide")).to_be_focused()
    expect(shown).to_have_count(0)
    expect(counts(page)).to_contain_text("36 kept, 4 rejected, 0 undecided")

    rejected = [row_id for n, row_id in enumerate(IDS[:19]) if n % 4 == 3]
    kept = [row_id for row_id in IDS if row_id not in rejected]
    assert saved(page) == DecisionsFile(run="run-1", promote=kept, discard=rejected)
    wanted = {"output": "s3://b/out", "run": "run-1"}
    wanted |= {"promote": ",".join(kept), "discard": ",".join(rejected)}
    assert filled(page, CLASSIC, 2) == filled(page, V2, 1) == wanted
    assert page.watched.complaints == []  # type: ignore[attr-defined]
    loaded = [each for each in page.watched.requests if not each.startswith(("data:", "file:"))]  # type: ignore[attr-defined]
    assert [each for each in loaded if not each.startswith("blob:")] == []  # it sends nothing


def test_letters_decide_only_where_a_picture_has_the_focus(open_page: OpenPage) -> None:
    from playwright.sync_api import expect

    page = open_page("review.html")
    for key in ("k", "r"):
        page.keyboard.press(key)
    page.get_by_label("Row id").fill("mug-1")
    page.get_by_label("Row id").press("r")
    expect(counts(page)).to_have_text("0 kept, 0 rejected, 40 undecided")
    page.get_by_role("button", name="Reset").click()
    card = page.get_by_role("article", name="all", exact=True)
    card.get_by_role("heading").click()
    page.keyboard.press("Control+k")
    expect(counts(page)).to_have_text("0 kept, 0 rejected, 40 undecided")
    page.keyboard.press("k")
    expect(page.get_by_role("article", name="__proto__", exact=True)).to_be_focused()
    assert filled(page, CLASSIC, 2)["promote"] == "all,"  # that row, and not all rows
    page.evaluate("window.confirm = () => true")
    page.get_by_text("Decisions as text").first.click()
    page.get_by_role("button", name="Clear all decisions").click()
    expect(counts(page)).to_have_text("0 kept, 0 rejected, 40 undecided")


def test_pages_and_tabs_of_a_review_keep_one_set_of_decisions(open_page: OpenPage) -> None:
    from playwright.sync_api import expect

    first, second = open_page("page.html"), open_page("report-2.html")
    first.get_by_role("radio", name="keep").first.check()
    expect(counts(second)).to_contain_text("all 2 pages: 1 kept, 0 rejected")
    second.get_by_role("radio", name="reject").first.check()
    expect(counts(first)).to_contain_text("1 kept, 0 rejected, 2 undecided; all 2 pages")
    decided = {"promote": [IDS[3]], "discard": [IDS[6]]}
    assert saved(first).model_dump() == saved(second).model_dump() == {"run": "run-1"} | decided


def test_decisions_that_are_too_many_for_a_link_are_copied(open_page: OpenPage) -> None:
    from playwright.sync_api import expect

    page = open_page("many.html")
    page.get_by_role("button", name="Next undecided").click()
    notice = page.get_by_text("These decisions are too many for a link").first
    expect(notice).to_be_hidden()
    for _ in range(80):
        page.keyboard.press("k")
    expect(counts(page)).to_contain_text("80 kept, 0 rejected, 0 undecided")
    expect(notice).to_be_visible()
    assert filled(page, CLASSIC, 2) == {"output": "s3://b/out", "run": "run-1"}
    page.get_by_role("button", name="Copy decisions").click()
    expect(counts(page)).to_contain_text(re.compile(r"Copied\.|The text is selected: copy it\."))
    text = page.locator("#text").input_value()
    assert len(DecisionsFile.model_validate_json(text).promote) == 80


def test_a_browser_that_stores_nothing_says_so_and_still_saves(
    open_page: OpenPage, folder: Path
) -> None:
    from playwright.sync_api import expect

    page = open_page("empty.html")
    page.goto("about:blank")  # such a page has no storage of its own
    page.set_content((folder / "review.html").read_text())
    expect(page.get_by_text("This browser stores nothing for this page.")).to_be_visible()
    page.get_by_role("button", name="Next undecided").click()
    page.keyboard.press("k")
    assert saved(page).promote == ["all"]


def test_what_somebody_else_stored_decides_nothing_it_should_not(open_page: OpenPage) -> None:
    from playwright.sync_api import expect

    page = open_page("review.html")
    for stored in ("no JSON", "7", "null", '{"Mug-1": "<img>", "Mug-2": {"a": 1}}'):
        page.evaluate("text => localStorage.setItem('ace-catalog decisions run-1', text)", stored)
        page.reload()
        expect(counts(page)).to_have_text("0 kept, 0 rejected, 40 undecided")
    assert page.watched.complaints == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["empty.html", "growing.html", "canary.html", "page.html"])
def test_everybody_can_read_and_reach_it_on_a_phone(
    open_page: OpenPage, name: str, scheme: str
) -> None:
    page = open_page(name, color_scheme=scheme, **PHONE)
    for summary in page.locator("summary").all():
        summary.tap()
    for choice in page.locator(".choice label").all()[:1]:
        choice.tap()
        assert ": keep. 1 kept, 0 rejected, 2 undecided" in counts(page).inner_text()
    screenshot(page, f"phone-{name.partition('.')[0]}-{scheme}")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.watched.complaints == []  # type: ignore[attr-defined]
