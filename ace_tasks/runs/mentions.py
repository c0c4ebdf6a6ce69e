"""Whether something tells of what is to be forgotten. Names are compared as data, never as escapes.

JSON is parsed, and Markdown and HTML are read as a browser shows them. A cell tells of a source if
it is its name. A text, such as an error, tells of it if the name stands in it, and is not the
beginning of another name that we know (`a.png` in `a.png(1).png`).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

_MARKDOWN_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+!|~])")
_ESCAPES = re.compile(r"""(?:\\u[0-9a-fA-F]{4})+|\\["'\\/bfnrt]""")
_CUT_CHARS = 20  # of a name that was cut short: so much of it still tells of it


@dataclass(frozen=True)
class Mentions:
    """`terms`: URIs, hashes and ids to be forgotten. `others`: URIs that are to stay."""

    terms: frozenset[str]
    others: frozenset[str] = field(default=frozenset())

    def is_one(self, cell: object) -> bool:
        """Return whether a cell, or an element of a list in it, is one of the terms."""
        return any(each in self.terms for each in _strings(cell))

    def in_text(self, text: str) -> bool:
        """Return whether a term stands in a text."""
        return self._found(self._pattern, self.terms, text)

    def in_quoted(self, text: str) -> bool:
        """Return whether a term stands in a text that may be JSON, CSV or Python's `repr`, or a
        part of one, with the escapes that these have for quotes and other characters.
        """
        plain = _ESCAPES.sub(_unescaped, text)
        return any(map(self.in_text, {text, plain, text.replace('""', '"')}))

    def in_html(self, page: str) -> bool:
        """Return whether a page shows a term, or links to it."""
        text = html.unescape(page)
        return self.in_text(text) or ("%" in text and self.in_text(unquote(text)))

    def in_markdown(self, text: str, cut_at: int) -> bool:
        """Return whether a cell of a Prefect artifact shows a term, whole or cut short.

        `cut_at`: after how many characters its writer cuts; what is cut is held to tell of a term
        that goes on so.
        """
        shown = without_escapes(text)
        for each in {shown, _ESCAPES.sub(_unescaped, shown)}:
            if self._found(self._shown_pattern, self._shown_terms, _folded(each)):
                return True
        return len(shown) >= cut_at and self._is_cut(_folded(shown))

    # ------------------------------------------------------------ steps

    def _found(self, pattern: re.Pattern[str], terms: frozenset[str], text: str) -> bool:
        """The longest known term at each place is the one that is meant there."""
        return bool(terms) and any(each[0] in terms for each in pattern.finditer(text))

    def _is_cut(self, text: str) -> bool:
        return any(
            text.endswith(term[:length])
            for term in self._shown_terms
            for length in range(min(_CUT_CHARS, len(term)), len(term))
        )

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_of(self.terms | self.others)

    @cached_property
    def _shown_terms(self) -> frozenset[str]:
        return frozenset(map(_folded, self.terms))

    @cached_property
    def _shown_pattern(self) -> re.Pattern[str]:
        return _any_of(self._shown_terms | frozenset(map(_folded, self.others)))


def _unescaped(found: re.Match[str]) -> str:
    return "'" if found[0] == "\\'" else str(json.loads(f'"{found[0]}"'))


def without_escapes(markdown: str) -> str:
    return _MARKDOWN_ESCAPE.sub(r"\1", markdown)


def _any_of(terms: frozenset[str]) -> re.Pattern[str]:
    """What goes on as a name does is another one, though nothing that we read knows it."""
    ordered = sorted(terms, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, ordered))})(?![\\w-]|[./][\\w-]|[,(][^\\s])")


def _folded(text: str) -> str:
    """As a table of ours shows it: one line, without angle brackets."""
    return " ".join(text.replace("<", " ").replace(">", " ").split())


def _strings(value: Any) -> Iterator[str]:
    """Every string in a value that came from JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
