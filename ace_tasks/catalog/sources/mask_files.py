"""Which mask a picture gets: one rule for all of them, or a picture of its own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ace_tasks.catalog.sources.album import Album, Rank, listed
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures
from ace_tasks.catalog.sources.prefixes import is_prefix
from ace_tasks.catalog.sources.source_picture import SourcePicture, file_name
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import quote
from ace_tasks.store import Store

MaskRule = Callable[[SourcePicture], Any]
"""A picture → the cell of its row's column mask; None: it has no mask. Raises BadRow."""

# Data sets and editors call the mask of `7.jpg` `7_mask.png`, `7-mask.png` or `7 mask.png`.
_SUFFIX = re.compile(r"[ ._-]+masks?$", re.IGNORECASE)


@contextmanager
def open_masks(
    parameter: str,
    rule: str,
    store: Store,
    scratch: Path,
    *,
    optional: bool,
    masked: Iterable[SourcePicture] = (),
) -> Iterator[MaskRule]:
    """The rule that a parameter names: a word, or the prefix that holds a mask of each name.

    `masked`: the pictures that will ask for masks. Two of them never get one mask by a file name
    that they share; they are read only where masks come from a prefix.
    Raises SettingsError, and CatalogError when the prefix cannot be read.
    """
    if is_prefix(rule):
        with (
            Album.on_disk(scratch / "masks.sqlite", "mask", _SUFFIX) as album,
            closing(sqlite3.connect("", isolation_level=None)) as uses,
        ):
            for _ in album.fill(pictures(SourcePlace(parameter, rule), store)):
                pass
            by_name = _ByName(album, uses)
            by_name.count_uses(masked)
            yield by_name
        return
    rules: dict[str, MaskRule] = {
        "alpha": lambda picture: "alpha",
        "auto": lambda picture: "auto",
        "column": _from_column,
    }
    if optional:
        rules["none"] = lambda picture: None
    if rule not in rules:
        raise SettingsError(
            f"{parameter}: accepted: {', '.join(rules)}, or s3://bucket/prefix; given {quote(rule)}"
        )
    yield rules[rule]


class _ByName:
    """Masks by the names of their pictures: by id, or key under the prefix; else by the file's
    name, wherever the two lie, if that means one mask and one picture.
    """

    def __init__(self, album: Album, uses: sqlite3.Connection):
        self._album, self._uses = album, uses
        self._uses.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE uses (mask TEXT, picture TEXT, PRIMARY KEY (mask, picture)) WITHOUT ROWID;
            BEGIN;
            """
        )

    def count_uses(self, masked: Iterable[SourcePicture]) -> None:
        for picture in masked:
            try:
                mask, _ = self._find(picture)
            except BadRow:
                continue
            self._uses.execute("INSERT OR IGNORE INTO uses VALUES (?, ?)", (mask.uri, picture.uri))

    def __call__(self, picture: SourcePicture) -> str:
        mask, by_file = self._find(picture)
        others = self._uses.execute(
            "SELECT picture FROM uses WHERE mask = ? AND picture <> ? LIMIT 1",
            (mask.uri, picture.uri),
        ).fetchone()
        if by_file and others:
            raise BadRow(
                "mask",
                f"accepted: a mask of one picture; {quote(mask.uri)} is called as "
                f"{quote(picture.uri)} is, and as {quote(others[0])}",
            )
        return mask.uri

    def _find(self, picture: SourcePicture) -> tuple[SourcePicture, bool]:
        """The mask, and whether the file's name alone says so. Raises BadRow."""
        stem = file_name(picture.uri)
        # Of a table these are the id, if it has one, the file's name and the URI.
        whole = picture.names[: -2 if picture.folder is None else -1]
        for name in whole:
            if found := self._album.called(name, Rank.BARE):
                return self._only(name, found), False
        called = self._album.called(stem)
        found = [each for each in called if _may_be_beside(picture, each)]
        if found:
            return self._only(stem, found), True
        names = dict.fromkeys([*whole[:1], stem, f"{whole[0] if whole else stem}_mask"])
        elsewhere = f"; of another folder: {listed(called)}" if called else ""
        raise BadRow("mask", f"no mask is called {' or '.join(map(quote, names))}{elsewhere}")

    def _only(self, name: str, found: list[SourcePicture]) -> SourcePicture:
        if len(found) > 1:
            raise self._album.several("mask", name, found)
        return found[0]


def _may_be_beside(picture: SourcePicture, mask: SourcePicture) -> bool:
    """Whether their folders do not say that they are of different things: one is the end of the
    other, or there is none.
    """
    one, other = f"/{picture.folder or ''}", f"/{mask.folder or ''}"
    return "/" in (one, other) or one.endswith(other) or other.endswith(one)


def _from_column(picture: SourcePicture) -> Any:
    if picture.mask in (None, ""):
        raise BadRow("mask", "missing; the masks are to come from the table's column mask")
    return picture.mask
