"""Render rows as HTML pages, one after the other, so that only one page is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ace_tasks.runs.report.assets import style_and_script, template
from ace_tasks.runs.report.cards import Entry, make_card, status_of
from ace_tasks.runs.report.thumbnails import Thumbnails
from ace_tasks.runs.results import Result
from ace_tasks.settings import ImageLimits
from ace_tasks.store import Store

PAGE_ITEMS = 200
_THREADS = 8

Card = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PageLink:
    """The two links to a page.

    `name` is its file name, for pages in the same folder. `signed` is a signed link, for readers
    who opened the first page by one.
    """

    name: str
    signed: str


@dataclass(frozen=True)
class DecisionPanel:
    """The means by which a person decides about the pictures of a sheet.

    `command` carries out the decisions that are in `file`. The forms are addresses of the form that
    carries them out, up to the parameters; None if the UI is not known. `afterwards` says what is
    left to do then.
    """

    run_id: str
    output_uri: str
    file: str
    command: str
    classic_form: str | None = None
    v2_form: str | None = None
    afterwards: str = ""


@dataclass(frozen=True, eq=False)
class Sheet:
    """A contact sheet of `results`, in their order. `entry_of` finds what is shown of each.

    `total` is the number of rows in the run. The sheet says how many of them it shows, or `note`
    instead. With `panel`, a person decides about every picture. A sheet that is written again and
    again has one page and `kept`: the cards of the last time, by line, which are not made anew.
    """

    title: str
    facts: dict[str, Any]
    results: Sequence[Result]
    entry_of: Callable[[Result], Entry]
    total: int
    output_uri: str
    sources: Store
    outputs: Store
    limits: ImageLimits
    note: str = ""
    panel: DecisionPanel | None = None
    kept: dict[int, Card] | None = None

    @property
    def pages(self) -> int:
        """Return the number of pages, at least one."""
        return max(1, -(-len(self.results) // PAGE_ITEMS))

    def build(self, links: Sequence[PageLink]) -> Iterator[bytes]:
        """Yield every page as HTML (UTF-8), in order. `links` has one entry for each page.

        A picture that cannot be read is left blank. Raises StoreUnavailable.
        """
        parts = [
            self.results[start : start + PAGE_ITEMS]
            for start in range(0, self.pages * PAGE_ITEMS, PAGE_ITEMS)
        ]
        outline = [
            {"link": link, "summary": _summary(part)}
            for link, part in zip(links, parts, strict=True)
        ]
        for number, part in enumerate(parts, 1):
            cards = self._cards(part)
            yield (
                template("page.html.j2")
                .render(
                    **style_and_script("page.js", *(["decide.js"] if self.panel else [])),
                    panel=self.panel,
                    note=self.note,
                    title=self.title,
                    facts=self.facts,
                    cards=cards,
                    statuses=Counter(card["status"] for card in cards),
                    tasks=Counter(card["task"] for card in cards),
                    number=number,
                    outline=outline,
                    first=(number - 1) * PAGE_ITEMS + 1,
                    shown=len(self.results),
                    total=self.total,
                )
                .encode()
            )

    def _cards(self, results: Sequence[Result]) -> list[Card]:
        album = Thumbnails(self.sources, self.outputs, self.limits)
        kept = self.kept or {}

        def card(result: Result) -> Card:
            made = kept.get(result.line)
            return made or make_card(self.entry_of(result), album, self.output_uri)

        with self.outputs.in_parallel(_THREADS) as pool:
            cards = list(pool.map(card, results))
        if self.kept is not None:
            self.kept.clear()
            self.kept.update((each.line, made) for each, made in zip(results, cards, strict=True))
        return cards


def _summary(results: Sequence[Result]) -> str:
    """Return a line that sums up a page."""
    if not results:
        return "no rows"
    counts = Counter(map(status_of, results))
    counted = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{counted}; rows {results[0].row_id} to {results[-1].row_id}"
