"""Text that someone else wrote, made harmless for a terminal, a log or a page.

A terminal obeys control characters, bidirectional characters make text look like another text, and
characters without width hide in a name. All of them are shown as Python escapes them in a string:
`\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Controls, formats such as direction and joiners, line and paragraph separators, surrogates,
# private use, unassigned.
_KINDS = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
# All except the letters and signs of Latin texts, which need no look-up.
_SUSPECT = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff]")


def harmless(text: str, keep: str = "") -> str:
    """Return the text with invisible characters escaped, except those in `keep`."""
    return _escaped(text, keep, lambda character: character.encode("unicode_escape").decode())


def harmless_json(text: str) -> str:
    """Return the same JSON with such characters escaped. Line breaks between values stay."""

    def escape(character: str) -> str:
        units = character.encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))

    return _escaped(text, "\n", escape)


def _escaped(text: str, keep: str, escape: Callable[[str], str]) -> str:
    def shown(match: re.Match[str]) -> str:
        harms = match[0] not in keep and unicodedata.category(match[0]) in _KINDS
        return escape(match[0]) if harms else match[0]

    return _SUSPECT.sub(shown, text)
