"""The contact sheet. If these break, a catalog runs script in a reviewer's browser, or a picture
that cannot be shown ends a run whose work is done."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.provenance.keys import record_key, review_record_key
from ace_tasks.provenance.record import (
    CandidateRecord,
    CandidatesRecord,
    PasteRecord,
    ReviewRecord,
    Scores,
)
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import PAGE_ITEMS, DecisionPanel
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import AutoMask, PixelSettings, Source, Sources
from ace_tasks.store import Store, join_uri
from tests.support import sheets
from tests.support.sheets import entry, record

HOSTILE = {
    "an image": "<img src=x onerror=alert(1)>",
    "a script": "</p></article><script>alert(1)</script>",
    "a template's sum": "{{ 7*7 }}",
    "a template's loop": "{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}",
    "an attribute": '" onload="alert(1)',
    "entities": "&lt;b&gt; &amp; 雪",
}


class _Page(HTMLParser):
    """Holds what a browser would see."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]

    @property
    def labels(self) -> list[str | None]:
        """Return what each place for a picture claims to show."""
        return [
            "blank" if attributes.get("class") == "blank" else attributes.get("alt")
            for tag, attributes in self.tags
            if tag == "img" or attributes.get("class") == "blank"
        ]


See = Callable[..., _Page]


@pytest.fixture
def see(store: Store) -> See:
    def see(entries: list[Entry], total: int | None = None, title: str = "t") -> _Page:
        """The first page."""
        facts, limits = {"run": "run-1", "<b>": "<i>"}, ImageLimits(max_bytes=100_000)
        sheet = sheets.sheet(
            entries, store, store, title=title, facts=facts, total=total, limits=limits
        )
        page = _Page(sheets.pages(sheet)[0])
        assert {tag for tag, _ in page.tags} & {"iframe", "i", "b"} == set()
        assert len(page.all("script")) == 1
        handlers = {a for _, attributes in page.tags for a in attributes if a.startswith("on")}
        assert (
            handlers | {a for _, attributes in page.tags for a in attributes if a == "style"}
            == set()
        )
        return page

    return see


@pytest.fixture
def photo(store: Store, prefix: str, picture: Callable[..., bytes]) -> Callable[..., str]:
    """Put a picture of noise into the store: photo(name, width, height, ...) → its URI."""

    def photo(name: str, *size: int, **more: Any) -> str:
        uri = join_uri(prefix, name)
        store.put(uri, picture(*size, **more), "image/png")
        return uri

    return photo


def thumbnail(attributes: dict[str, str | None]) -> Image.Image:
    kind, _, data = str(attributes["src"]).partition(",")
    assert kind in {"data:image/webp;base64", "data:image/png;base64"}
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_before_after_mask_and_references_are_embedded(see: See, photo: Callable[..., str]) -> None:
    row = {
        "task": "try_on",
        "image": photo("i.png", 64, 48),
        "mask": photo("m.png", 64, 48, mode="L"),
        "reference": [photo("r1.jpg", 40, 80, kind="JPEG"), photo("r2.png", 20, 20)],
    }
    page = see([entry(row, output_uri=photo("o.png", 800, 600, mode="L"), seconds=1.5)])
    assert page.labels == [
        "before of row-1",
        "after of row-1",
        "mask of row-1",
        "reference 1 of row-1",
        "reference 2 of row-1",
    ]
    sizes = [thumbnail(each).size for each in page.all("img")]
    assert sizes == [(64, 48), (288, 216), (64, 48), (40, 80), (20, 20)]
    stated = [(int(str(each["width"])), int(str(each["height"]))) for each in page.all("img")]
    assert stated == sizes  # nothing moves while they are decoded
    outside = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href"} and not str(value).startswith(("data:", "#"))
    ]
    assert outside == []


def test_a_slider_is_there_only_where_the_two_lie_on_each_other(
    see: See, photo: Callable[..., str]
) -> None:
    """Under one that does not, a reviewer would take a shifted crop for the model's work."""
    image = photo("i.png", 64, 48)
    row = {"task": "edit", "image": image}
    same = photo("same.png", 128, 96)
    for after, sliders in ((same, 1), (photo("frame.png", 96, 96), 0), ("s3://tests/none", 0)):
        page = see([entry(row, output_uri=after)])
        labels = [each["aria-label"] for each in page.all("input") if each["type"] == "range"]
        assert labels == ["Before and after of row-1"] * sliders
    made = {"task": "reference", "reference": image, "width": 64, "height": 64}
    assert [each["type"] for each in see([entry(made, output_uri=same)]).all("input")] == ["search"]


@pytest.mark.parametrize(
    ("mask", "white"),
    [
        pytest.param({"box": [0, 0, 32, 48]}, 0.5, id="box"),
        pytest.param("alpha", None, id="alpha"),
        pytest.param(None, None, id="none"),
    ],
)
def test_a_drawn_mask_is_shown_as_it_was_used(
    see: See, photo: Callable[..., str], mask: Any, white: float | None
) -> None:
    image = photo("i.png", 64, 48, mode="RGBA")
    row = {"task": "edit", "image": image, "mask": mask}
    page = see([entry(row, output_uri=image)])
    shown = ["before of row-1", "after of row-1", "mask of row-1"]
    assert page.labels == [each for each in shown if mask or "mask" not in each]
    if white:
        histogram = thumbnail(page.all("img")[2]).convert("L").histogram()
        assert sum(histogram[200:]) / sum(histogram) == pytest.approx(white, abs=0.05)
    assert ("50.0%" in page.text) == (white == 0.5)  # how much was repainted


def test_a_mask_made_by_a_model_comes_from_the_record_or_its_absence_is_explained(
    see: See, photo: Callable[..., str]
) -> None:
    """There is no model where the sheet is made."""
    image = photo("i.png", 64, 48)
    row = {"task": "fill", "image": image, "mask": "auto", "mask_label": "cup"}
    by_model = PixelSettings(auto_mask=AutoMask(method="model", model="f1"))
    made = entry(row, pixels=by_model, output_uri=image)
    mask = np.zeros((4800, 6400), np.uint8)
    mask[:1200] = 255
    page = see([replace(made, record=record(made, mask))])
    assert page.labels[-1] == "mask of row-1"
    drawing = thumbnail(page.all("img")[-1])
    assert drawing.size == (160, 120)
    white = drawing.convert("L").histogram()[255]
    assert white / (160 * 120) == pytest.approx(0.25, abs=0.01)
    assert len(str(page.all("img")[-1]["src"])) < 500
    assert "25.0%" in page.text
    failed = entry(row, pixels=by_model, status="failed", error_code="bad_mask", error="no cup")
    page = see([failed])
    assert page.labels == ["before of row-1"]
    assert "The mask is made by a model" in page.text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_catalog_says_is_shown_and_never_run(see: See, text: str) -> None:
    row = {"task": "edit", "image": "s3://b/i", "prompt": text}
    failed = {"status": "failed", "error_code": "bad_mask", "error": f"given {text}"}
    page = see([entry(row, problem="gone", **failed)], title=text)
    assert page.text.count(text) == 4  # title, heading, prompt, error
    assert page.all("img") == []


@pytest.mark.parametrize("panel", [None, sheets.panel()], ids=["sheet", "review"])
def test_the_page_may_load_nothing_and_run_only_its_own_script(
    store: Store, panel: DecisionPanel | None
) -> None:
    """The second fence, should escaping ever fail."""
    (html,) = sheets.pages(sheets.sheet([], store, store, panel=panel))
    (policy,) = (each["content"] for each in _Page(html).all("meta") if "http-equiv" in each)
    directives = dict(each.split(" ", 1) for each in str(policy).split("; "))
    hashes = {}
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = hashlib.sha256(inside.encode()).digest()
        hashes[f"{tag}-src"] = f"'sha256-{base64.b64encode(digest).decode()}'"
    assert directives == hashes | {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def planned_as_it_is(made: Entry, store: Store, *, knows_sha256: bool = True) -> Entry:
    """The entry as a plan has it, which asked the store what each source is."""

    def known(source: Source | None) -> Source | None:
        if source is None:
            return None
        info = store.head(source.uri)
        sha256 = info.sha256 if knows_sha256 else None
        return source.model_copy(update={"etag": info.etag, "sha256": sha256})

    sources = made.item.sources
    known_sources = Sources(
        image=known(sources.image),
        mask=known(sources.mask),
        reference=tuple(each for each in map(known, sources.reference) if each),
    )
    return replace(made, item=made.item.model_copy(update={"sources": known_sources}))


@pytest.mark.parametrize("knows_sha256", [True, False])
def test_a_source_that_was_replaced_is_not_shown_as_the_one_that_was_edited(
    see: See,
    photo: Callable[..., str],
    store: Store,
    tmp_path: Path,
    picture: Callable[..., bytes],
    *,
    knows_sha256: bool,
) -> None:
    after, local = photo("o.png", 64, 48), tmp_path / "local.png"
    row = {
        "task": "try_on",
        "image": photo("i.png", 64, 48),
        "mask": photo("m.png", 64, 48),
        "reference": photo("r.png", 40, 40),
    }
    local.write_bytes(picture(64, 48))
    entries = [
        planned_as_it_is(entry(each, output_uri=after), store, knows_sha256=sha256)
        for each, sha256 in ((row, knows_sha256), ({"task": "edit", "image": str(local)}, True))
    ]
    shown = [f"{name} of row-1" for name in ("before", "after", "mask", "reference")]
    assert see(entries).labels == [*shown, "before of row-1", "after of row-1"]
    for name in ("i.png", "m.png", "r.png"):
        photo(name, 64, 48, seed=9)
    local.write_bytes(picture(64, 48, seed=9))
    page = see(entries)
    assert page.labels == ["blank", "after of row-1", "blank", "blank", "blank", "after of row-1"]
    assert page.text.count("was replaced since") == 4
    assert [each for each in page.all("input") if each["type"] == "range"] == []


def test_a_picture_that_cannot_be_shown_is_left_blank(
    see: See, store: Store, prefix: str, photo: Callable[..., str]
) -> None:
    good, missing = photo("good.png", 64, 48), join_uri(prefix, "missing.png")
    broken, large = join_uri(prefix, "broken.png"), photo("large.png", 400, 400)
    store.put(broken, b"no picture", "image/png")
    blank: dict[str, tuple[dict[str, Any], list[str]]] = {
        "missing image": ({"task": "edit", "image": missing}, ["blank"]),
        "broken image": ({"task": "edit", "image": broken}, ["blank"]),
        "large image": ({"task": "edit", "image": large}, ["blank"]),
        "missing mask": ({"task": "fill", "image": good, "mask": missing}, ["x", "blank"]),
        "broken mask": ({"task": "fill", "image": good, "mask": broken}, ["x", "blank"]),
        "no alpha": ({"task": "fill", "image": good, "mask": "alpha"}, ["x", "blank"]),
        "outside": (
            {"task": "fill", "image": good, "mask": {"box": [0, 0, 99, 99]}},
            ["x", "blank"],
        ),
        "reference": ({"task": "reference", "reference": [good, missing]}, ["x", "blank"]),
    }
    for name, (row, expected) in blank.items():
        labels = see([entry(row, status="failed", error_code="x", error="y")]).labels
        assert ["blank" if each == "blank" else "x" for each in labels] == expected, name
    gone = see([entry({"task": "edit", "image": good}, output_uri=missing)])
    assert gone.labels == ["before of row-1", "blank"]


def test_a_mask_that_fits_nothing_is_shown_as_it_was_given(
    see: See, photo: Callable[..., str]
) -> None:
    """The person who repairs the row sees the file at fault."""
    row = {"task": "fill", "image": photo("i.png", 64, 48), "mask": photo("m.png", 30, 30)}
    page = see([entry(row, status="failed", error_code="bad_mask", error="of another size")])
    assert page.labels == ["before of row-1", "mask as given of row-1"]


def test_a_source_with_a_problem_is_not_asked_for(see: See, photo: Callable[..., str]) -> None:
    row = {"task": "fill", "image": photo("i.png"), "mask": photo("m.png", mode="L")}
    page = see([entry(row, problem="no such object", status="failed", error_code="x")])
    assert page.labels == ["blank", "blank"]


def test_a_failure_shows_its_error_and_a_success_none(see: See) -> None:
    row = {"task": "edit", "image": "s3://b/i"}
    failed = entry(
        row, problem="gone", status="failed_before", error_code="source_missing", error="gone away"
    )
    done = entry(row | {"id": "row-2"}, problem="gone", same_as="row-1")
    held = entry(row | {"id": "row-3"}, problem="gone", status="failed", error_code="needs_review")
    page = see([failed, done, held])
    assert re.search(r"source_missing\s+gone away", page.text)
    assert len([each for each in page.all("p") if each.get("class") == "error"]) == 2
    assert re.search(r"same picture as row\s*row-1", page.text)
    statuses = [each["data-status"] for each in page.all("article")]
    assert statuses == ["failed before", "done", "held back"]
    options = [each["value"] for each in page.all("option")]
    assert options == ["", "failed before", "done", "held back", "", "edit"]


def test_a_mask_to_check_says_so_on_its_card(see: See, photo: Callable[..., str]) -> None:
    row = {"task": "fill", "image": photo("i.png", 64, 48), "mask": photo("m.png", 64, 48)}
    made = entry(row, output_uri=photo("o.png", 64, 48), hint_codes="label_map", hints="a map?")
    plain = entry(row | {"id": "row-2"}, output_uri=photo("o.png", 64, 48))
    page = see([made, plain])
    assert page.text.count("Check the mask: a map?") == 1
    assert [each.get("class") for each in page.all("p")].count("hint") == 1
    # A row that an earlier run made has them in its record.
    kept = record(plain, np.zeros((48, 64), np.uint8))
    assert kept.mask is not None
    hinted = kept.mask.model_copy(update={"hints": {"soft_mask": "a soft one?"}})
    page = see([replace(plain, record=kept.model_copy(update={"mask": hinted}))])
    assert "Check the mask: a soft one?" in page.text
    # A failure for it says it once.
    failed = {"status": "failed", "error_code": "suspect_mask", "error": "a map?"}
    page = see([entry(row, hint_codes="label_map", hints="a map?", **failed)])
    assert page.text.count("a map?") == 1


def test_pages_hold_200_rows_each_and_find_each_other(store: Store) -> None:
    row = {"task": "edit", "image": "s3://b/i"}
    entries = [
        entry(
            row | {"id": f"row-{n}"}, line=n, problem="gone", status="done" if n > 3 else "failed"
        )
        for n in range(2 * PAGE_ITEMS + 1)
    ]
    sheet = sheets.sheet(entries, store, store, total=5000)
    assert sheet.pages == 3
    first, second, third = (_Page(html) for html in sheets.pages(sheet))
    articles = [each["data-row"] for page in (first, second, third) for each in page.all("article")]
    assert articles == [each.item.row_id for each in entries]
    assert len(second.all("article")) == PAGE_ITEMS
    for page in (first, second, third):
        assert f"{len(entries)} of 5000 rows are shown" in page.text
    assert "Page 2 of 3, rows 201 to 400 of 401" in second.text
    hrefs = [each["href"] for each in second.all("a") if "data-signed" in each]
    assert hrefs == ["report.html", "report-3.html", "report.html", "report-3.html"]
    signed = [each["data-signed"] for each in third.all("a") if "data-signed" in each]
    assert all("/report" in str(each) and "X-Amz-Signature=s" in str(each) for each in signed)
    titles = [each["title"] for each in third.all("a") if "title" in each]
    assert titles[0] == "4 failed, 196 done; rows row-0 to row-199"
    assert "opens for at most 7 days" in third.text


def test_a_sheet_of_one_page_has_no_links_and_says_nothing_of_others(see: See) -> None:
    page = see([entry({"task": "edit", "image": "s3://b/i"}, problem="gone")])
    assert page.all("nav") == []
    assert "rows are shown" not in page.text


def test_what_made_a_picture_is_one_click_away(see: See, photo: Callable[..., str]) -> None:
    """Scores, candidates, review, window, hashes: what a person needs to trust it, or not to."""
    image = photo("i.png", 64, 48)
    row = {
        "task": "edit",
        "image": image,
        "mask": {"box": [0, 0, 32, 48]},
        "mask_grow": 3,
        "quality": 80,
        "preset": "white-1000",
        "candidates": 2,
    }
    shown = entry(row, output_uri=image)
    scores = Scores(total=0.71, sharpness=0.5, colour_shift=3.25)
    made = record(
        shown,
        scores=scores,
        paste=PasteRecord(
            window_px=(1, 2, 33, 44),
            feather_px=5,
            outside_max=3,
            outside_mean=0,
            model_outside_mean=1,
        ),
        candidates=CandidatesRecord(
            count=2,
            chosen=1,
            candidates=(
                CandidateRecord(seed=11, scores=Scores(total=0.4), uri=photo("other.png", 64, 48)),
                CandidateRecord(seed=12, scores=scores),
            ),
        ),
        review=ReviewRecord(reasons=("too plain",), promoted_by="flow-7"),
    )
    page = see([replace(shown, record=made)])
    for expected in (
        "score 0.71 · sharpness 0.5, colour shift 3.25",
        "3.25: Lab distance across the mask",
        "grow_px 3",
        "white-1000",
        "80",
        "x 1 to 33 px, y 2 to 44 px",
        "only in the feather's 5 px, by at most 3 of 255",
        "number 1 of 2; 0: 0.4 (seed 11)",
        "too plain",
        "flow-7",
        "catalog",
        "d4d4d4",
        "a1a1a1",
        "b2b2b2",
        "fetch 0.25, generate 1.5",
        f"s3://b/out/{record_key(shown.item.item_id)}",
        f"{image}, 64×48 px",
    ):
        assert expected in page.text, expected
    assert page.labels[-1] == "candidate 0, 0.40 of row-1"
    assert "score 0" not in see([shown]).text
    held = entry(row, output_uri=image, status="failed", error_code="needs_review")
    page = see([replace(held, record=record(held))])
    assert f"s3://b/out/{review_record_key(record(held))}" in page.text


def test_a_review_asks_for_each_picture_and_another_sheet_for_none(store: Store) -> None:
    row = {"task": "edit", "image": "s3://b/i"}
    held = {"status": "failed", "error_code": "needs_review", "problem": "gone"}
    entries = [entry(row | {"id": f"Mug-{n}"}, line=n, **held) for n in range(2)]
    (html,) = sheets.pages(sheets.sheet(entries, store, store, panel=sheets.panel()))
    page = _Page(html)
    choices = [each for each in page.all("input") if each["type"] == "radio"]
    assert [each["value"] for each in choices] == ["keep", "reject", "undecided"] * 2
    assert len({each["name"] for each in choices}) == 2
    assert [each["data-id"] for each in page.all("article")] == ["Mug-0", "Mug-1"]
    assert "Decision on Mug-1" in page.text
    (html,) = sheets.pages(sheets.sheet(entries, store, store))
    assert [each for each in _Page(html).all("input") if each["type"] == "radio"] == []
    assert "localStorage" not in html


def test_what_a_review_is_told_is_text(store: Store) -> None:
    texts = dict.fromkeys(
        ("run_id", "output_uri", "file", "command", "afterwards"), HOSTILE["an attribute"]
    )
    (html,) = sheets.pages(
        sheets.sheet([], store, store, panel=sheets.panel(HOSTILE["a script"], **texts))
    )
    page = _Page(html)
    assert len(page.all("script")) == 1
    assert {name for _, given in page.tags for name in given if name.startswith("on")} == set()


def test_a_sheet_that_is_written_again_makes_each_card_once(
    store: Store, photo: Callable[..., str]
) -> None:
    image = photo("i.png", 64, 48)
    entries = [
        entry({"id": f"r{n}", "task": "edit", "image": image}, line=n, output_uri=image)
        for n in range(3)
    ]
    asked: list[int] = []

    def entry_of(result: Any) -> Entry:
        asked.append(result.line)
        return entries[result.line]

    base = replace(
        sheets.sheet(entries, store, store, note="It works."), entry_of=entry_of, kept={}
    )
    for lines in ((0,), (1, 0), (2, 1), (2, 1)):
        sheet = replace(base, results=[entries[n].result for n in lines])
        page = _Page(sheets.pages(sheet)[0])
        assert [each["data-row"] for each in page.all("article")] == [f"r{n}" for n in lines]
        assert "It works." in page.text
        assert base.kept is not None
        assert list(base.kept) == list(lines)  # no more than it shows
    assert asked == [0, 1, 2]
