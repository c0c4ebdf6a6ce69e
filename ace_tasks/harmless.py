"""Text that someone else wrote, made harmless for a terminal, a log or a page.

A terminal obeys control characters, bidirectional characters make text look like another text, and
characters without width hide in a name. All of them are shown as Python escapes them in a string:
`\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import re
import unicodedata

# Controls, formats such as direction and joiners, line and paragraph separators, surrogates,
# private use, unassigned.
_KINDS = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
# All except the letters and signs of Latin texts, which need no look-up.
_SUSPECT = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff]")


def harmless(text: str, keep: str = "") -> str:
    """Return the text with invisible characters escaped, except those in `keep`."""

    def shown(match: re.Match[str]) -> str:
        character = match[0]
        if character in keep or unicodedata.category(character) not in _KINDS:
            return character
        return character.encode("unicode_escape").decode()

    return _SUSPECT.sub(shown, text)


def harmless_json(text: str) -> str:
    """Return the same JSON with such characters escaped. Line breaks between values stay."""

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        if character == "\n" or unicodedata.category(character) not in _KINDS:
            return character
        units = character.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))

    return _SUSPECT.sub(escaped, text)
