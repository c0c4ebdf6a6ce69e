"""Render the page of a comparison: rows down, the source and the alternatives across."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ace_tasks.provenance.record import Record, Scores
from ace_tasks.runs.report.assets import style_and_script, template
from ace_tasks.runs.report.cards import Entry, Facts, make_card, single_scores
from ace_tasks.runs.report.pages import PageLink
from ace_tasks.runs.report.thumbnails import Blank, Thumbnails
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Source, WorkItem
from ace_tasks.store import Store
from ace_tasks.wording import counted

_THREADS = 8


@dataclass(frozen=True)
class Choice:
    """The means by which a person runs the whole catalog as an alternative does.

    `parameters` are those of `deployment`, as JSON. `forms` are addresses of its form, filled in,
    each with a text.
    """

    command: str
    deployment: str
    parameters: str
    forms: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Column:
    """One alternative: its settings, what became of its rows, and how to choose it.

    `entries` and `rejects` hold rows by id. A row that is in neither is not made yet. `whole` says
    what the rest of the catalog would take.
    """

    name: str
    settings: str
    run_id: str
    choice: Choice
    whole: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    rejects: Mapping[str, str] = field(default_factory=dict)  # row id → why

    @property
    def records(self) -> list[Record]:
        """The records of the pictures that were made."""
        return [each.record for each in self.entries.values() if each.record]

    @property
    def scores(self) -> Scores | None:
        """The mean scores of the pictures."""
        return mean_scores(each.scores for each in self.records if each.scores)

    @property
    def seconds(self) -> float | None:
        """The mean seconds that the model worked on a picture."""
        seconds = list(map(seconds_of, self.records))
        return statistics.fmean(seconds) if seconds else None

    def head(self) -> dict[str, Any]:
        """Return what the template shows above the pictures."""
        failed = len(self.entries) + len(self.rejects) - len(self.records)
        return {
            "name": self.name,
            "settings": self.settings,
            "scores": _scores(self.scores),
            "seconds": f"{self.seconds:.2f} s a picture" if self.seconds else "no picture yet",
            "failed": f"{counted(failed, 'row')} without a picture" if failed else "",
            "whole": self.whole,
        }


def _scores(scores: Scores | None) -> dict[str, Any] | None:
    """Return scores as the template shows them, single ones folded."""
    return {"total": scores.total, "single": single_scores(scores)} if scores else None


def mean_scores(scores: Iterator[Scores]) -> Scores | None:
    """Return the mean of each score over the pictures that have it; None without any picture."""
    rows = [each.model_dump(exclude_none=True) for each in scores]
    names = {name for row in rows for name in row}
    means = {
        name: round(statistics.fmean(row[name] for row in rows if name in row), 3) for name in names
    }
    return Scores(**means) if means else None


def seconds_of(record: Record) -> float:
    """Return the seconds that the model worked on a picture; without a model, all its seconds."""
    return record.timings_s.get("generate") or sum(record.timings_s.values())


@dataclass(frozen=True, eq=False)
class ComparisonPage:
    """The page of a comparison. `items` are the rows, in their order."""

    title: str
    facts: Mapping[str, Any]
    items: Sequence[WorkItem]
    columns: Sequence[Column]
    output_uri: str
    sources: Store
    outputs: Store
    limits: ImageLimits = field(default_factory=ImageLimits)

    @property
    def pages(self) -> int:
        """Return the number of pages: all is on one."""
        return 1

    def build(self, links: Sequence[PageLink]) -> Iterator[bytes]:
        """Yield the page as HTML (UTF-8). It needs no links. Raises StoreUnavailable."""
        album = Thumbnails(self.sources, self.outputs, self.limits)
        with self.outputs.in_parallel(_THREADS) as pool:
            rows = list(pool.map(partial(self._row, album), self.items))
        yield (
            template("comparison.html.j2")
            .render(
                **style_and_script("comparison.js"),
                title=self.title,
                facts=self.facts,
                heads=[each.head() for each in self.columns],
                columns=self.columns,
                rows=rows,
            )
            .encode()
        )

    def _row(self, album: Thumbnails, item: WorkItem) -> dict[str, Any]:
        source = album.source(item.sources.image) if item.sources.image else Blank.NONE
        cells = [self._cell(album, column, item.row_id) for column in self.columns]
        planned = {f"source {n}": _planned(each) for n, each in enumerate(item.sources.each(), 1)}
        where = _line({"item": item.item_id, **planned})
        return {"row_id": item.row_id, "source": source, "cells": cells, "where": where}

    def _cell(self, album: Thumbnails, column: Column, row_id: str) -> dict[str, Any]:
        entry = column.entries.get(row_id)
        if entry is None:
            why = column.rejects.get(row_id)
            picture = Blank.NONE if why else Blank.NOT_YET
            return {
                "picture": picture,
                "status": "rejected" if why else "",
                "notes": [why or ""],
                "scores": None,
                "where": "",
            }
        card = make_card(entry, album, self.output_uri)
        pictures = dict(card["pictures"])
        return {
            "picture": pictures.get("after", Blank.NONE),
            "status": "" if entry.result.status in {"done", "done_before"} else card["status"],
            "notes": [card["error"] or "", card["hints"] or ""],
            "scores": _scores(entry.record.scores) if entry.record else None,
            "where": _line(card["facts"]["where"]),
        }


def _planned(source: Source) -> str:
    return f"{source.uri}, sha256 {source.sha256}" if source.sha256 else source.uri


def _line(facts: Facts) -> str:
    """Return facts as one text. A page that names an item or object is found when it is forgotten."""
    return "; ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
