"""Which mask a picture gets: one rule for all of them, or a picture of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.feeds.album import Album
from ace_tasks.feeds.picture import Picture
from ace_tasks.feeds.pictures import Place, pictures
from ace_tasks.feeds.places import is_prefix
from ace_tasks.specs import quote
from ace_tasks.store import Store

MaskRule = Callable[[Picture], Any]
"""A picture → the cell of its row's column mask; None: it has no mask. Raises BadRow."""


@contextmanager
def open_masks(
    parameter: str, rule: str, store: Store, scratch: Path, *, optional: bool
) -> Iterator[MaskRule]:
    """The rule that a parameter names: a word, or the prefix that holds a mask of each name.

    Raises SettingsError, and CatalogError when the prefix cannot be read.
    """
    if is_prefix(rule):
        with Album.on_disk(scratch / "masks.sqlite", "mask") as album:
            for _ in album.fill(pictures(Place(parameter, rule), store)):
                pass
            yield lambda picture: album.find_any("mask", _mask_names(picture)).uri
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


def _mask_names(picture: Picture) -> list[str]:
    """The picture's own name first; data sets call the mask of `7.jpg` `7_mask.png`."""
    return [picture.name, f"{picture.name}_mask"]


def _from_column(picture: Picture) -> Any:
    if picture.mask in (None, ""):
        raise BadRow("mask", "missing; the masks are to come from the table's column mask")
    return picture.mask
