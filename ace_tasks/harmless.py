"""Text that somebody else wrote, made harmless for a terminal, a log or a page.

A terminal obeys control characters; the bidirectional ones make text read as another; what has no
width hides in a name. All of them are shown as Python writes them in a string: `\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import re
import unicodedata

# Controls, formats such as direction and joins, line and paragraph ends, what is no character.
_KINDS = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
# All but the letters and signs of Latin texts, which need no look-up.
_SUSPECT = re.compile(r"[^\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff]")


def harmless(text: str, keep: str = "") -> str:
    """The text without a character that is not seen. `keep`: those that may stay, such as a line
    break.
    """

    def shown(match: re.Match[str]) -> str:
        character = match[0]
        if character in keep or unicodedata.category(character) not in _KINDS:
            return character
        return character.encode("unicode_escape").decode()

    return _SUSPECT.sub(shown, text)


def harmless_json(text: str) -> str:
    """The same JSON, with such characters as JSON escapes them. Line breaks between values stay."""

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        if character == "\n" or unicodedata.category(character) not in _KINDS:
            return character
        units = character.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))

    return _SUSPECT.sub(escaped, text)
