"""The page of a comparison. If these break, a person chooses by the wrong picture, or cannot read,
reach or carry out a choice on a phone, in the dark, or from a file on disk."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.provenance.record import Scores
from ace_tasks.runs.mentions import Mentions
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.comparison import Choice, Column, ComparisonPage, mean_scores
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from tests.runs.report.test_report import HOSTILE
from tests.runs.report.test_review_page import PHONE
from tests.support.browser import OpenPage, Watched, screenshot, violations
from tests.support.sheets import entry, pictures, record

ROWS = 6
PROMPT = " ".join(HOSTILE.values())


def column(folder: Path, name: str, made: int, **more: Any) -> Column:
    """An alternative: its first row failed, and others are made up to a number."""
    entries: dict[str, Entry] = {}
    for number in range(made):
        before, after = pictures(folder, number % 4)
        row = {"id": f"mug-{number}", "task": "edit", "image": before, "prompt": PROMPT}
        failed = {"status": "failed", "error_code": "timeout", "error": f"<b>{'x' * 90}</b>"}
        each = entry(row, line=number + 1, **({"output_uri": after} if number else failed))
        if number:
            each = replace(each, record=record(each))
        entries[each.item.row_id] = each
    choice = Choice(
        command=f"ace-catalog restyle s3://shop/in s3://shop/out --prompt '{PROMPT}' --steps 8",
        deployment="restyle-catalog",
        parameters='{\n "source": "s3://shop/in"\n}',
        forms={f"Open the form for {name}, filled in": "https://ui.example/form?a=1"},
    )
    return Column(name, f"prompt={PROMPT}", "run-1", choice, entries=entries, **more)


def page(folder: Path) -> str:
    whole = "120 more pictures: about 3 min of a replica, cost 0.10"
    columns = [
        column(folder, "marble", ROWS, whole=whole),
        column(folder, "oak", ROWS - 1, rejects={f"mug-{ROWS - 1}": "prompt: too long"}),
        *(column(folder, name, 0) for name in ("slow", "quick", "sharp", "dark")),
    ]
    items = [each.item for each in columns[0].entries.values()]
    store = Store(StoreSettings())
    facts = {"rows": ROWS, "run": "r" * 36}
    made = ComparisonPage("Compare", facts, items, columns, "s3://b/out", store, store)
    (html,) = made.build([])
    return html.decode()


def test_a_row_is_a_row_and_an_alternative_a_column(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert html.count('<th scope="row">') == ROWS + 2
    assert html.count('<th scope="col">') == 7
    assert html.count("<td") == 6 * (ROWS + 2)
    assert 'alt="oak of mug-2"' in html
    assert html.count("not made yet") == 2 * 4 * ROWS
    assert "1 row without a picture" in html
    assert "1.50 s a picture" in html
    assert "prompt: too long" in html
    assert html.count("<details><summary>scores</summary>") == 2 * ROWS - 3 + 2
    assert html.count("<span>no score</span>") == 4
    assert "120 more pictures: about 3 min of a replica, cost 0.10" in html
    for text in HOSTILE.values():
        assert text not in html or not set(text) & set("<>&'\"")
    assert "script-src &#39;sha256-" in html
    assert html.count("Open the form for oak, filled in") == 1


def test_it_names_whatever_it_shows_so_that_it_goes_when_that_is_forgotten(tmp_path: Path) -> None:
    html = page(tmp_path)
    entries = column(tmp_path, "marble", ROWS).entries.values()
    items = [each.item for each in entries]
    shown = {source.uri for item in items for source in item.sources.each()}
    shown |= {item.item_id for item in items}
    for each in (each.record for each in entries if each.record):
        assert each.sources.image
        shown |= {each.output.uri, each.output.sha256, each.sources.image.sha256}
    assert len(shown) > ROWS
    for name in shown:
        assert Mentions(frozenset({name})).in_html(html)
    assert not Mentions(frozenset({"s3://b/other.png"})).in_html(html)


def test_means_are_of_the_pictures_that_have_a_score() -> None:
    scores = [Scores(total=0.5, seam=2.0), Scores(total=1.0), Scores(total=0.9, seam=4.0)]
    assert mean_scores(iter(scores)) == Scores(total=0.8, seam=3.0)
    assert mean_scores(iter([])) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page to a folder, as one has it on disk."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "report.html").write_text(page(folder))
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, {}], ids=["phone", "desk"])
def test_everybody_can_read_and_reach_it(
    open_page: OpenPage, device: dict[str, Any], scheme: str
) -> None:
    shown = open_page("report.html", color_scheme=scheme, **device)
    from playwright.sync_api import expect

    table = shown.get_by_role("region", name="Pictures, row by row")
    table.focus()  # the keyboard scrolls it sideways
    screenshot(shown, f"comparison-{'phone' if device else 'desk'}-{scheme}")
    assert violations(shown) == []
    width = shown.evaluate("document.documentElement.scrollWidth")
    assert width == shown.evaluate("innerWidth")
    if device:
        assert width == 360
        assert table.evaluate("each => each.scrollWidth") > 360
        small = shown.get_by_role("link").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect()).filter(box => box.height < 16)"
        )
        assert small == []
    table.evaluate("each => each.scrollTo(90, 0)")
    shown.get_by_role("rowheader", name="mug-3").scroll_into_view_if_needed()
    frame, head, source = (
        each.bounding_box()
        for each in (
            table,
            shown.get_by_role("columnheader", name="marble"),
            shown.get_by_role("rowheader", name="mug-3"),
        )
    )
    assert frame
    assert head
    assert source
    assert abs(head["y"] - frame["y"]) <= 2
    assert abs(source["x"] - frame["x"]) <= 2
    middle = [source["x"] + 0.9 * source["width"], source["y"] + 20]
    on_top = "([x, y]) => document.elementFromPoint(x, y).closest('th')?.textContent ?? ''"
    assert "mug-3" in shown.evaluate(on_top, middle)  # no picture covers it
    shown.get_by_role("link", name="Choose oak").click()
    assert shown.url.endswith("#choose-2")
    section = shown.get_by_role("region", name="Choose oak")
    command = section.get_by_text("ace-catalog restyle")
    assert "<img" in command.inner_text()
    rows = [each for each in command.locator("span").all() if each.inner_text() == "--steps"]
    assert [len(each.evaluate("each => [...each.getClientRects()]")) for each in rows] == [1]
    section.get_by_role("button", name="Copy the command").press("Enter")
    copied = re.compile(r"^(Copied\.|The command is selected: copy it\.)$")
    expect(section.get_by_role("status")).to_have_text(copied)
    section.get_by_role("link", name="Back to the pictures").click()
    assert shown.url.endswith("#rows")
    watched: Watched = shown.watched  # type: ignore[attr-defined]
    assert watched.complaints == []
    assert [each for each in watched.requests if not each.startswith(("data:", "file:"))] == []
