"""Find out whether a cell, a text or a page mentions something that is to be forgotten.

Names are compared as data, without escapes: JSON is parsed, and Markdown and HTML are read as a
browser shows them. A cell mentions a source if it is its name. A text, such as an error, mentions
it if the name occurs in it and is not the beginning of another known name (`a.png` in
`a.png(1).png`).
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
_CUT_CHARS = 20  # a name that was cut short still counts as mentioned with so many characters


@dataclass(frozen=True)
class Mentions:
    """The names to look for.

    `terms` are the URIs, hashes and ids to be forgotten, `others` the URIs that stay.
    """

    terms: frozenset[str]
    others: frozenset[str] = field(default=frozenset())

    def is_one(self, cell: object) -> bool:
        """Return whether a cell, or an element of a list in it, is one of the terms."""
        return any(each in self.terms for each in _strings(cell))

    def in_text(self, text: str) -> bool:
        """Return whether a text contains a term."""
        return self._found(self._pattern, self.terms, text)

    def in_quoted(self, text: str) -> bool:
        """Return whether a text contains a term, plain or escaped.

        The text may be JSON, CSV or Python's `repr`, or a part of one, with their escapes for
        quotes and other characters.
        """
        plain = _ESCAPES.sub(_unescaped, text)
        return any(map(self.in_text, {text, plain, text.replace('""', '"')}))

    def in_html(self, page: str) -> bool:
        """Return whether a page shows a term, or links to it."""
        text = html.unescape(page)
        return self.in_text(text) or ("%" in text and self.in_text(unquote(text)))

    def in_markdown(self, text: str, cut_at: int) -> bool:
        """Return whether a cell of a Prefect artifact shows a term, whole or cut short.

        The cell's writer cuts after `cut_at` characters. A cut text counts as mentioning a term if
        it ends with the term's first `_CUT_CHARS` characters or more.
        """
        shown = without_escapes(text)
        for each in {shown, _ESCAPES.sub(_unescaped, shown)}:
            if self._found(self._shown_pattern, self._shown_terms, _folded(each)):
                return True
        return len(shown) >= cut_at and self._is_cut(_folded(shown))

    def _found(self, pattern: re.Pattern[str], terms: frozenset[str], text: str) -> bool:
        """Return whether `pattern` finds a term. At each place only the longest name counts."""
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
    """Return a pattern of the terms, longest first.

    A term that is followed by more characters of a name is the beginning of another name, even of
    an unknown one, and is not found.
    """
    ordered = sorted(terms, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, ordered))})(?![\\w-]|[./][\\w-]|[,(][^\\s])")


def _folded(text: str) -> str:
    """Return a text as our tables show it: on one line, without angle brackets."""
    return " ".join(text.replace("<", " ").replace(">", " ").split())


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
