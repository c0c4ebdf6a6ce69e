"""Words that every message puts in the same way."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 row`, `2,000 rows`, `1 person`, `2 people`.

    `plural` is for a noun that takes no s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
