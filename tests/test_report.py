"""The contact sheet. If these break, a catalog runs script in a reviewer's browser, or a picture
that cannot be shown ends a run whose work is done."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from ace_tasks.model.variants import find_variant
from ace_tasks.report import MAX_ITEMS, Entry, build_report
from ace_tasks.results import Result
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Source, Sources, parse_spec, work_item
from ace_tasks.store import Store, join_uri

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</p></article><script>alert(1)</script>",
    "{{ 7*7 }}",
    "{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}",
    '" onload="alert(1)',
    "&lt;b&gt; &amp; 雪",
]


class _Page(HTMLParser):
    """What a browser would see."""

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
        """What each place for a picture says it shows."""
        return [
            "blank" if attributes.get("class") == "blank" else attributes.get("alt")
            for tag, attributes in self.tags
            if tag == "img" or attributes.get("class") == "blank"
        ]


Sheet = Callable[..., _Page]


@pytest.fixture
def sheet(store: Store) -> Sheet:
    def sheet(entries: list[Entry], total: int | None = None, title: str = "t") -> _Page:
        facts = {"run": "run-1", "<b>": "<i>"}
        limits = ImageLimits(max_bytes=100_000)
        total = len(entries) if total is None else total
        html = build_report(title, facts, entries, total, store, store, limits)
        page = _Page(html.decode())
        assert {tag for tag, _ in page.tags} & {"script", "iframe", "i", "b"} == set()
        assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
        return page

    return sheet


@pytest.fixture
def photo(store: Store, prefix: str, picture: Callable[..., bytes]) -> Callable[..., str]:
    """Put a picture of noise into the store: photo(name, width, height, ...) → its URI."""

    def photo(name: str, *size: int, **more: Any) -> str:
        uri = join_uri(prefix, name)
        store.put(uri, picture(*size, **more), "image/png")
        return uri

    return photo


def entry(row: dict[str, Any], *, problem: str | None = None, **result: Any) -> Entry:
    """A row and what became of it; `problem` is that of every source."""
    spec = parse_spec({"id": "row-1", "prompt": "p"} | row)

    def source(uri: str) -> Source:
        return Source(uri=uri, etag="1", problem=problem)

    mask = getattr(spec, "mask", None)
    sources = Sources(
        image=source(spec.image) if hasattr(spec, "image") else None,
        mask=source(mask) if isinstance(mask, str) and mask != "alpha" else None,
        reference=tuple(source(each) for each in getattr(spec, "reference", ())),
    )
    item = work_item(1, spec, sources, find_variant("toy").identity())
    outcome = {"status": "done"} | result
    return Entry(item, Result(line=1, row_id=spec.id, task=spec.task, **outcome))


def thumbnail(attributes: dict[str, str | None]) -> Image.Image:
    kind, _, data = str(attributes["src"]).partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_before_mask_references_and_after_are_embedded(
    sheet: Sheet, photo: Callable[..., str]
) -> None:
    row = {
        "task": "try_on",
        "image": photo("i.png", 64, 48),
        "mask": photo("m.png", 64, 48, mode="L"),
        "reference": [photo("r1.jpg", 40, 80, kind="JPEG"), photo("r2.png", 20, 20)],
    }
    page = sheet([entry(row, output_uri=photo("o.png", 800, 600, mode="L"), seconds=1.5)])
    assert page.labels == [
        "before of row-1",
        "mask of row-1",
        "reference of row-1",
        "reference of row-1",
        "after of row-1",
    ]
    sizes = [thumbnail(each).size for each in page.all("img")]
    assert sizes == [(64, 48), (64, 48), (40, 80), (20, 20), (320, 240)]
    outside = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href"} and not str(value).startswith("data:")
    ]
    assert outside == []


@pytest.mark.parametrize(
    ("mask", "white"), [({"box": [0, 0, 32, 48]}, 0.5), ("alpha", None), (None, None)], ids=str
)
def test_a_drawn_mask_is_shown_as_it_was_used(
    sheet: Sheet, photo: Callable[..., str], mask: Any, white: float | None
) -> None:
    image = photo("i.png", 64, 48, mode="RGBA")
    row = {"task": "edit", "image": image, "mask": mask}
    page = sheet([entry(row, output_uri=image)])
    shown = ["before of row-1", "mask of row-1", "after of row-1"]
    assert page.labels == [each for each in shown if mask or "mask" not in each]
    if white:
        histogram = thumbnail(page.all("img")[1]).convert("L").histogram()
        assert sum(histogram[200:]) / sum(histogram) == pytest.approx(white, abs=0.05)
    assert ("50.0%" in page.text) == (white == 0.5)  # how much was repainted


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_catalog_says_is_shown_and_never_run(sheet: Sheet, text: str) -> None:
    row = {"task": "edit", "image": "s3://b/i", "prompt": text}
    failed = {"status": "failed", "error_code": "bad_mask", "error": f"given {text}"}
    page = sheet([entry(row, problem="gone", **failed)], title=text)
    assert page.text.count(text) == 4  # title, heading, prompt, error
    assert page.all("img") == []


def test_the_page_may_load_nothing_and_run_nothing(sheet: Sheet) -> None:
    """The second fence, should escaping ever fail."""
    (policy,) = (each["content"] for each in sheet([]).all("meta") if "http-equiv" in each)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_picture_that_cannot_be_shown_is_left_blank(
    sheet: Sheet, store: Store, prefix: str, photo: Callable[..., str]
) -> None:
    good, missing = photo("good.png", 64, 48), join_uri(prefix, "missing.png")
    broken, large = join_uri(prefix, "broken.png"), photo("large.png", 400, 400)
    store.put(broken, b"no picture", "image/png")
    blank: dict[str, tuple[dict[str, Any], list[str]]] = {
        "missing image": ({"task": "edit", "image": missing}, ["blank", "blank"]),
        "broken image": ({"task": "edit", "image": broken}, ["blank", "blank"]),
        "large image": ({"task": "edit", "image": large}, ["blank", "blank"]),
        "missing mask": ({"task": "fill", "image": good, "mask": missing}, ["x", "blank", "blank"]),
        "broken mask": ({"task": "fill", "image": good, "mask": broken}, ["x", "blank", "blank"]),
        "no alpha": ({"task": "fill", "image": good, "mask": "alpha"}, ["x", "blank", "blank"]),
        "outside": (
            {"task": "fill", "image": good, "mask": {"box": [0, 0, 99, 99]}},
            ["x", "blank", "blank"],
        ),
        "reference": ({"task": "reference", "reference": [good, missing]}, ["x", "blank", "blank"]),
    }
    for name, (row, expected) in blank.items():
        labels = sheet([entry(row, status="failed", error_code="x", error="y")]).labels
        assert ["blank" if each == "blank" else "x" for each in labels] == expected, name


def test_a_source_with_a_problem_is_not_asked_for(sheet: Sheet, photo: Callable[..., str]) -> None:
    row = {"task": "fill", "image": photo("i.png"), "mask": photo("m.png", mode="L")}
    page = sheet([entry(row, problem="no such object", status="failed", error_code="x")])
    assert page.labels == ["blank", "blank"]


def test_a_failure_shows_its_error_and_a_success_none(sheet: Sheet) -> None:
    row = {"task": "edit", "image": "s3://b/i"}
    failed = entry(
        row, problem="gone", status="failed_before", error_code="source_missing", error="gone"
    )
    done = entry(row | {"id": "row-2"}, problem="gone", same_as="row-1")
    page = sheet([failed, done])
    assert "source_missing: gone" in page.text
    assert "failed before" in page.text
    assert len([each for each in page.all("p") if each.get("class") == "error"]) == 1
    assert re.search(r"same picture as row\s*row-1", page.text)
    assert [each["aria-label"] for each in page.all("article")] == ["row row-1", "row row-2"]


@pytest.mark.parametrize(
    ("given", "total", "stated"),
    [
        (MAX_ITEMS + 1, MAX_ITEMS + 1, f"{MAX_ITEMS} of {MAX_ITEMS + 1} rows are shown"),
        (2, 1000, "2 of 1000 rows are shown"),
        (2, 2, None),
    ],
)
def test_what_is_left_out_is_stated(
    sheet: Sheet, given: int, total: int, stated: str | None
) -> None:
    row = {"task": "edit", "image": "s3://b/i"}
    page = sheet([entry(row, problem="gone")] * given, total=total)
    assert len(page.all("article")) == min(given, MAX_ITEMS)
    if stated:
        assert stated in page.text
    else:
        assert "rows are shown" not in page.text
