"""The contact sheet in a browser. If these break, a reviewer cannot compare or find a row, by mouse
or by keyboard, on a phone or in the dark; or a catalog reaches out from the page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ace_tasks.provenance.keys import report_key
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import PAGE_ITEMS, PageLink
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from tests.runs.report.test_report import HOSTILE
from tests.support import sheets
from tests.support.browser import OpenPage, Watched, chromium, screenshot, violations
from tests.support.sheets import entry, record

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.thorough

HOSTILE_TEXTS = list(HOSTILE.values())
SHOWN = PAGE_ITEMS + 7
LONG = "a" * 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a contact sheet of two pages to a folder, as one has it on disk."""
    folder = tmp_path_factory.mktemp("sheet")
    store = Store(StoreSettings())
    sheet = sheets.sheet(
        rows(folder),
        store,
        store,
        title="Edits of s3://shop/spring.jsonl",
        facts={"result": "all of it", "run": "r" * 64},
        total=5000,
    )
    for link, page in zip(sheets.links(sheet), sheets.pages(sheet), strict=True):
        (folder / link.name).write_text(page)
    return folder


def rows(folder: Path) -> list[Entry]:
    """Make failures, one held back, all tasks, hostile prompts, pictures high, wide and framed."""
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 24:72] = 255
    entries = []
    for number in range(SHOWN):
        before, after = sheets.pictures(folder, number % 16)
        row: dict[str, Any] = {
            "id": f"Mug-{number}",
            "task": "edit",
            "image": before,
            "prompt": HOSTILE_TEXTS[number % len(HOSTILE_TEXTS)] * 3,
        }
        result: dict[str, Any] = {"output_uri": after}
        if number < 3:
            message = f"s3://b/{LONG}: <img src=x onerror=alert(2)>"
            result = {"status": "failed", "error_code": "source_missing", "error": message}
        elif number == 3:
            result |= {"status": "failed", "error_code": "needs_review", "error": "blank"}
        elif number % 3 == 0:
            row |= {
                "task": "try_on",
                "mask": {"box": [0.2, 0.2, 0.8, 0.8]},
                "reference": [before],
            }
        elif number == 5:
            row["id"] = LONG
        each = entry(row, line=number, **result)
        finished = "output_uri" in result
        entries.append(replace(each, record=record(each, mask)) if finished else each)
    return entries


def split(page: Page, row_id: str) -> str:
    """Return where the picture after begins, as it is drawn."""
    figure = page.get_by_role("article", name=row_id, exact=True).locator(".compare figure").nth(1)
    return str(figure.evaluate("each => getComputedStyle(each).clipPath"))


def test_before_and_after_are_compared_by_keyboard_and_by_mouse(open_page: OpenPage) -> None:
    page = open_page("report.html")
    slider = page.get_by_role("slider", name="Before and after of Mug-4", exact=True)
    assert split(page, "Mug-4") == "inset(0px 0px 0px 50%)"
    slider.focus()
    outline = "each => getComputedStyle(each.parentElement).outlineStyle"
    assert slider.evaluate(outline) == "solid"  # it is seen which one has the keys
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert split(page, "Mug-4") == "inset(0px 0px 0px 60%)"
    assert slider.get_attribute("aria-valuetext") == "60 % before"
    page.keyboard.press("Home")
    assert split(page, "Mug-4") in {"inset(0px)", "inset(0px 0px 0px 0%)"}
    page.keyboard.press("End")
    assert split(page, "Mug-4") == "inset(0px 0px 0px 100%)"
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert abs(int(slider.input_value()) - 25) <= 1  # the pointer is where the pictures part
    assert split(page, "Mug-6") == "inset(0px 0px 0px 50%)"  # nobody else's
    picture = page.get_by_alt_text("after of Mug-4", exact=True).bounding_box()
    assert picture is not None
    assert abs(picture["width"] - box["width"]) <= 1


def test_rows_are_found_by_status_task_and_id_on_this_page_and_the_next(
    open_page: OpenPage,
) -> None:
    from playwright.sync_api import expect  # waits: a page answers in its own time

    page = open_page("report.html")
    shown = page.get_by_role("article")
    status = page.get_by_role("status")
    headings = shown.get_by_role("heading", level=2)
    expect(shown).to_have_count(PAGE_ITEMS)
    expect(status).to_have_text(f"{PAGE_ITEMS} rows")
    page.get_by_label("Status").select_option("failed")
    expect(shown).to_have_count(3)
    expect(status).to_have_text(f"3 of {PAGE_ITEMS} rows of this page")
    page.get_by_label("Status").select_option("held back")
    expect(headings).to_have_text(["Mug-3"])
    page.get_by_role("button", name="Reset").click()
    expect(shown).to_have_count(PAGE_ITEMS)
    page.get_by_label("Row id").fill("mug-20")  # in whatever case
    expect(shown).to_have_count(1)
    page.get_by_label("Row id").fill("mug-1")
    page.get_by_label("Task").select_option("try_on")
    expect(page.locator("article:not([hidden]):not([data-task=try_on])")).to_have_count(0)
    assert 0 < shown.count() < PAGE_ITEMS / 2
    page.keyboard.press("Enter")  # a form is nothing to send
    page.get_by_label("Row id").fill("mug-20")
    page.get_by_role("link", name="2", exact=True).click()
    page.wait_for_url("**/report-2.html#*")
    expect(page.get_by_label("Task")).to_have_value("try_on")
    expect(page.get_by_label("Row id")).to_have_value("mug-20")
    expected = [f"Mug-{n}" for n in range(PAGE_ITEMS, SHOWN) if n % 3 == 0]
    expect(headings).to_have_text(expected)
    page.get_by_role("link", name="previous page").click()
    page.wait_for_url("**/report.html#*")
    expect(shown).to_have_count(0)
    assert page.watched.complaints == []  # type: ignore[attr-defined]


def test_a_catalog_can_make_the_page_neither_run_nor_load_anything(open_page: OpenPage) -> None:
    page = open_page("report.html")
    watched: Watched = page.watched  # type: ignore[attr-defined]
    for summary in page.locator("article:nth-child(-n+9) summary").all():
        summary.click()
    page.mouse.wheel(0, 5000)
    page.get_by_text("<img src=x onerror=alert(1)>").first.wait_for()
    assert watched.complaints == []
    # Were one unescaped after all, the policy refuses it.
    with (
        page.expect_console_message(lambda line: line.text.startswith("refused: img-src")),
        page.expect_console_message(lambda line: line.text.startswith("refused: script-src-attr")),
    ):
        page.evaluate(
            "document.querySelector('.prompt').innerHTML = '<img src=x onerror=alert(3)>'"
        )
    # What the catalog says came before that: nothing else was loaded, nothing else was refused.
    refused = [each.split()[1] for each in watched.complaints if each.startswith("refused: ")]
    assert sorted(refused) == ["img-src", "script-src-attr"]
    assert "dialog" not in "\n".join(watched.complaints)
    loaded = [each for each in watched.requests if not each.startswith("data:")]
    assert loaded == [page.url, page.url.replace("report.html", "x")]


def test_pages_opened_by_a_signed_link_lead_to_each_other(
    open_page: OpenPage, store: Store, prefix: str, folder: Path
) -> None:
    """On S3 nobody may read the neighbour by its bare name."""
    from playwright.sync_api import expect

    sheet = sheets.sheet(rows(folder), store, store)
    uris = [join_uri(prefix, report_key("r", number)) for number in (1, 2)]
    signed = [PageLink(uri.rpartition("/")[2], store.presign(uri)) for uri in uris]
    for uri, html in zip(uris, sheet.build(signed), strict=True):
        store.put(uri, html, "text/html; charset=utf-8")
    page = open_page(signed[0].signed)
    for name, count in (("next page", SHOWN - PAGE_ITEMS), ("previous page", PAGE_ITEMS)):
        page.get_by_label("Task").select_option("edit")
        page.get_by_role("link", name=name).click()
        expect(page.locator("article")).to_have_count(count)
        expect(page.get_by_label("Task")).to_have_value("edit")
    assert page.watched.complaints == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ["report.html", "report-2.html"])
def test_a_phone_shows_it_without_scrolling_sideways(open_page: OpenPage, url: str) -> None:
    page = open_page(url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    screenshot(page, f"sheet-phone-{url.partition('.')[0]}")
    page.get_by_role("button", name="Masks and references").tap()
    for summary in page.locator("article:nth-child(-n+7) .facts summary").all():
        summary.tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(each => each.checkVisibility()"
        " && each.getBoundingClientRect().right > 360).map(each => each.outerHTML.slice(0, 80))"
    )
    assert wide == []
    small = page.locator("button, select, input, summary, nav a").evaluate_all(
        "all => all.filter(each => each.checkVisibility()).map(each => each.getBoundingClientRect())"
        ".filter(box => box.height < 24 || box.width < 24).length"
    )
    assert small == 0  # a finger finds it (WCAG 2.2, 2.5.8)


# Pairs of controls that lie on each other.
OVERLAPPING = """() => {
  const all = [...document.querySelectorAll("form select, form input, form button, form output")]
    .map((each) => [each.name, each.getBoundingClientRect()]);
  return all.flatMap(([name, a], n) => all.slice(n + 1)
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map(([other]) => `${name} ${other}`));
}"""


@pytest.mark.parametrize("width", [360, 600, 800, 1000, 1280, 1900])
def test_its_controls_stand_apart_at_any_width(open_page: OpenPage, width: int) -> None:
    page = open_page("report-2.html", viewport={"width": width, "height": 900})
    assert page.evaluate(OVERLAPPING) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(open_page: OpenPage, scheme: str) -> None:
    page = open_page("report-2.html", color_scheme=scheme, viewport={"width": 1280, "height": 900})
    screenshot(page, f"sheet-{scheme}")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 3 * 128) == (scheme == "light")
    for summary in page.locator("article summary").all():
        summary.click()
    assert violations(page) == []


def test_a_screen_reader_is_given_all_that_is_seen(open_page: OpenPage) -> None:
    page = open_page("report.html")
    for landmark in ("banner", "main", "contentinfo", "search"):
        assert page.get_by_role(landmark).count() == 1, landmark  # type: ignore[arg-type]
    names = [each.get_attribute("aria-label") for each in page.get_by_role("navigation").all()]
    assert names == ["Pages", "Neighbouring pages"]
    page.get_by_role("button", name="Masks and references").click()
    card = page.get_by_role("article", name="Mug-6", exact=True).aria_snapshot()
    for part in (
        'heading "Mug-6" [level=2]',
        'img "before of Mug-6"',
        'img "after of Mug-6"',
        'slider "Before and after of Mug-6"',
        'img "mask of Mug-6"',
        'img "reference of Mug-6"',
    ):
        assert part in card, card


def test_a_keyboard_reaches_the_rows_first_and_then_all_that_can_be_done(
    open_page: OpenPage,
) -> None:
    page = open_page("report-2.html")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the rows"
    assert page.locator(":focus").is_visible()
    page.keyboard.press("Enter")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText")
        )
    number = PAGE_ITEMS
    assert reached[0] == f"Before and after of Mug-{number}"
    assert "provenance" in reached
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1


def test_without_script_before_and_after_stand_side_by_side(open_page: OpenPage) -> None:
    """As a mail program shows it, or a store's preview."""
    page = open_page("report.html", java_script_enabled=False)
    before, after = (
        page.get_by_alt_text(f"{which} of Mug-4", exact=True).bounding_box()
        for which in ("before", "after")
    )
    assert before is not None
    assert after is not None
    assert before["x"] + before["width"] <= after["x"]
    assert not page.get_by_role("slider").first.is_visible()
    assert not page.get_by_role("search").is_visible()  # it would do nothing


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_without_chromium_only_ci_fails(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """A CI whose browser is gone must not look green."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(outcome, match="apt-get install chromium"), chromium():
        pass
