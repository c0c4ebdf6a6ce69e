"""The mask of each picture: one rule for all pictures, or a mask file for each."""

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
"""A picture → the cell of its row's column mask, or None for no mask. Raises BadRow."""

# Data sets and editors name the mask of `7.jpg` `7_mask.png`, `7-mask.png` or `7 mask.png`.
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
    """Yield the mask rule that a parameter names: a keyword, or a prefix with a mask for each name.

    `masked` holds the pictures that will ask for masks, and is read only if masks come from a
    prefix. Two of them never get the same mask through a shared file name.
    Raises SettingsError, and CatalogError if the prefix cannot be read.
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
    """A rule that finds masks by the names of their pictures.

    It looks for the id, or the key under the prefix. Else it looks for the file's name in any
    folder, if that means one mask and one picture.
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
                f"accepted: a mask of one picture; {quote(mask.uri)} has the name of both "
                f"{quote(picture.uri)} and {quote(others[0])}",
            )
        return mask.uri

    def _find(self, picture: SourcePicture) -> tuple[SourcePicture, bool]:
        """Return the mask, and whether only the file's name matched. Raises BadRow."""
        stem = file_name(picture.uri)
        # A table gives the id, if it has one, then the file's name and the URI.
        whole = picture.names[: -2 if picture.folder is None else -1]
        for name in whole:
            if found := self._album.called(name, Rank.BARE):
                return self._only(name, found), False
        called = self._album.called(stem)
        found = [each for each in called if _may_be_beside(picture, each)]
        if found:
            return self._only(stem, found), True
        names = dict.fromkeys([*whole[:1], stem, f"{whole[0] if whole else stem}_mask"])
        elsewhere = f"; in another folder: {listed(called)}" if called else ""
        raise BadRow("mask", f"no mask is called {' or '.join(map(quote, names))}{elsewhere}")

    def _only(self, name: str, found: list[SourcePicture]) -> SourcePicture:
        if len(found) > 1:
            raise self._album.several("mask", name, found)
        return found[0]


def _may_be_beside(picture: SourcePicture, mask: SourcePicture) -> bool:
    """Return whether the folders of a picture and a mask allow that they belong together.

    They do if one path ends with the other, or if one of the two has no folder.
    """
    one, other = f"/{picture.folder or ''}", f"/{mask.folder or ''}"
    return "/" in (one, other) or one.endswith(other) or other.endswith(one)


def _from_column(picture: SourcePicture) -> Any:
    if picture.mask in (None, ""):
        raise BadRow("mask", "missing; masks are taken from the table's column mask")
    return picture.mask
