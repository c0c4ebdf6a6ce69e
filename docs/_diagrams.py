"""A Sphinx extension: drawings as SVG, made at build time, in the colours of the page.

    ```{diagram} run
    ```

A drawing is boxes at given places and arrows between them. Nothing but Python draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_LINE_PX = 19  # from one line of text to the next


@dataclass(frozen=True)
class Box:
    """A rectangle with a title and lines of small text. All lengths are in px of the drawing."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...] = ()
    kind: str = "part"  # part, store, frame (an outline round others), or plain (only text)

    @property
    def middle(self) -> tuple[int, int]:
        return self.x + self.width // 2, self.y + self.height // 2

    def svg(self) -> str:
        radius = 14 if self.kind == "store" else 6
        shape = (
            f'<rect class="{self.kind}" x="{self.x}" y="{self.y}" width="{self.width}" '
            f'height="{self.height}" rx="{radius}"/>'
        )
        if self.kind in {"frame", "plain"}:
            return shape + text(self.x + 12, self.y + 20, self.title, "small", "start")
        middle, centre = self.middle
        first = centre - len(self.lines) * _LINE_PX // 2 + 5
        small = [
            text(middle, first + n * _LINE_PX, line, "small")
            for n, line in enumerate(self.lines, start=1)
        ]
        return shape + text(middle, first, self.title, "title") + "".join(small)


@dataclass(frozen=True)
class Arrow:
    """A line through points, with an arrowhead at the last one."""

    points: tuple[tuple[int, int], ...]
    label: str = ""
    label_at: tuple[int, int] = (0, 0)

    def svg(self) -> str:
        points = " ".join(f"{x},{y}" for x, y in self.points)
        line = f'<polyline class="arrow" points="{points}" marker-end="url(#head)"/>'
        return line + (text(*self.label_at, self.label, "small", "start") if self.label else "")


@dataclass(frozen=True)
class Drawing:
    """A drawing, and what it shows in one sentence."""

    width: int
    height: int
    says: str
    parts: tuple[Box | Arrow, ...]

    def svg(self) -> str:
        head = (
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto-start-reverse"><path class="head" d="M0 0 10 5 0 10z"/>'
            "</marker></defs>"
        )
        body = "".join(each.svg() for each in self.parts)
        return (
            f'<div class="ace-drawing"><svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'style="max-width: {self.width}px" aria-label="{escape(self.says)}">'
            f"{head}{body}</svg></div>"
        )


def text(x: int, y: int, words: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


# ---------------------------------------------------------------- the way of a row

_RUN = Drawing(
    720,
    560,
    "A catalog is planned and split into shards. A dispatcher gives items to replicas, which read "
    "sources from S3 and write a picture and then its record to the output.",
    (
        Box(20, 16, 200, 64, "catalog", ("JSONL, CSV, Parquet",), "store"),
        Box(540, 16, 170, 64, "S3: sources", ("pictures, masks",), "store"),
        Box(10, 112, 492, 162, "Prefect flow", kind="frame"),
        Box(30, 144, 180, 106, "plan", ("check the rows,", "identify the items,", "sort them")),
        Box(250, 144, 236, 106, "dispatcher", ("one thread that feeds", "the replicas")),
        Box(290, 306, 420, 122, "Ray: one actor per GPU", kind="frame"),
        Box(306, 338, 190, 70, "replica", ("fetch, edit, encode",)),
        Box(508, 338, 190, 70, "replica", ("fetch, edit, encode",)),
        Box(
            20,
            474,
            240,
            70,
            "S3: what the run leaves",
            ("results, summary, contact sheet",),
            "store",
        ),
        Box(350, 474, 320, 70, "S3: output", ("1 picture, 2 record, if none is there",), "store"),
        Arrow(((120, 80), (120, 142))),
        Arrow(((210, 197), (248, 197))),
        Arrow(((478, 250), (478, 336))),
        Arrow(((486, 197), (580, 197), (580, 336)), "only keys", (510, 189)),
        Arrow(((650, 80), (650, 336)), "bytes", (658, 220)),
        Arrow(((400, 408), (400, 472))),
        Arrow(((600, 408), (600, 472))),
        Arrow(((265, 250), (265, 300), (140, 300), (140, 472))),
    ),
)

# ---------------------------------------------------------------- packages

_LAYERS = (
    ("infra", "servers, images, Kubernetes, dashboards"),
    ("flows", "ten flows; options, steps, ui, cli"),
    ("evaluation", "scores against exact answers"),
    ("training", "recipes, stages, the drawn world"),
    ("runs", "results, history, review, audit, forget"),
    ("engine", "many items: Ray actors, dispatcher"),
    ("replica", "the life of one item"),
    ("masks", "from files, shapes, content, people"),
    ("model", "weights, text, VAE, denoise loop"),
    ("plan", "which items, in what order, at what price"),
    ("lcu", "the LCU++ canvas"),
    ("images", "decode, encode, colour, paste"),
    ("catalog", "where rows come from"),
    ("provenance", "records, keys, XMP, C2PA"),
    ("specs", "what a row may ask; item identity"),
    ("store, settings", "errors, harmless, wording: for all others"),
)
_HEIGHT = 38


def _layer(number: int) -> tuple[Box | Arrow, ...]:
    name, what = _LAYERS[number]
    y = 16 + number * _HEIGHT
    height = _HEIGHT - 8
    return Box(56, y, 190, height, name), Box(250, y, 340, height, what, kind="plain")


_PACKAGES = Drawing(
    600,
    26 + len(_LAYERS) * _HEIGHT,
    "Packages in layers, from infra and flows on top down to errors and settings. Each imports "
    "only from those below it.",
    (
        *(part for number in range(len(_LAYERS)) for part in _layer(number)),
        Arrow(((30, 22), (30, 10 + len(_LAYERS) * _HEIGHT))),
    ),
)

# ---------------------------------------------------------------- the commit of an item

_COMMIT = Drawing(
    720,
    400,
    "A replica writes the picture under a key with its own hash, then the record if none is "
    "there. If the store answers 412 it reads the standing record.",
    (
        Box(180, 16, 360, 62, "1. PUT the picture", ("its key ends in its own hash",)),
        Box(180, 116, 360, 62, "2. PUT the record", ("If-None-Match: *",)),
        Box(20, 216, 260, 62, "201: done", ("the record is the commit",), "store"),
        Box(420, 216, 280, 62, "412: a record is there", ("read it",)),
        Box(250, 320, 210, 62, "same attempt: done", ("an answer was lost",), "store"),
        Box(480, 320, 230, 62, "another attempt", ("ours goes, theirs stays",), "store"),
        Arrow(((360, 78), (360, 114))),
        Arrow(((270, 178), (150, 214))),
        Arrow(((450, 178), (560, 214))),
        Arrow(((510, 278), (380, 318))),
        Arrow(((580, 278), (596, 318))),
    ),
)

DRAWINGS = {"run": _RUN, "packages": _PACKAGES, "commit": _COMMIT}


class Diagram(SphinxDirective):
    """Put a drawing of `DRAWINGS` into the page."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", DRAWINGS[self.arguments[0]].svg(), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("diagram", Diagram)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
