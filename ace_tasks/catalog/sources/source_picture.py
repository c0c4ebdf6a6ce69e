"""A picture that a source names, and the id of the row that is made of it."""

from __future__ import annotations

import hashlib
import os.path
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What `images` decodes, as files are called. Browsers know JPEG by all of its six.
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp"})
SUFFIXES = JPEG_SUFFIXES | {".png", ".webp", ".avif"}
# What systems put beside the pictures of a folder: macOS, Windows, Synology.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", ".Trashes", ".Spotlight-V100", ".fseventsd"})
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_OTHERS = re.compile(r"[^A-Za-z0-9._-]+")
_SLUG_CHARS, _HASH_CHARS = 80, 10


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """`names`: what it may be called, its own first: what lies under a prefix has the rest of its
    key without the ending, what a table names has its id there, or its file's name.

    `folder`: where under its prefix it lies, "" at the top; None where it comes from a table.
    `where`: the place in its file that names it, such as `feed.csv, line 7`; "" without a file.
    """

    uri: str
    row_id: str
    names: tuple[str, ...]
    mask: Any = None  # its table's column
    columns: Mapping[str, Any] = field(default_factory=dict)  # all of them
    folder: str | None = None
    where: str = ""

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class GeneratedRow:
    """A row that a run makes of a picture, and where its source names it, if that is a file."""

    cells: dict[str, Any]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """What a source holds that is no picture of its own: counted, and no row."""

    name: str
    why: str = "no picture"


def why_skipped(key: str) -> str | None:
    """Why a key under a prefix is passed over; None for a picture."""
    *folders, name = key.split("/")
    if name.startswith("._") or name in _SYSTEM_FILES or not _SYSTEM_FOLDERS.isdisjoint(folders):
        return "written by the system"
    return None if is_picture(name) else "no picture"


def is_picture(key: str) -> bool:
    return os.path.splitext(key)[1].lower() in SUFFIXES  # a million keys: no Path objects


def file_name(key: str) -> str:
    """The last part of a key, without its ending."""
    return os.path.splitext(key.rpartition("/")[2])[0]


def composed(name: str) -> str:
    """The name in Unicode's form NFC. A Mac writes `ë` as two characters, most others as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def row_id_of(text: str, *more: int) -> str:
    """A valid row id for what `text` names; with `more`, for one of several things that it names.

    The same for ever, whatever else the source holds. `text` itself where it may be one: a key in
    its prefix as it is, with its ending. Else what of it may stand in an id, without the ending of
    a picture, and ten hex digits of the SHA-256 of all of it: `shoes/red shoe.jpg` is
    `shoes-red-shoe-` and its digits. So no two keys share an id: one kind ends as a picture does,
    the other in digits that tell it from all others.
    """
    if not more and _VALID.fullmatch(text) and text not in {".", ".."}:
        return text
    stem = os.path.splitext(text)[0] if is_picture(text) else text
    return unique_id("-".join([stem, *map(str, more)]), text, *map(str, more))


def unique_id(readable: str, *whole: str) -> str:
    """What of `readable` may stand in a row id, and ten hex digits of the SHA-256 of `whole`."""
    ascii_only = unicodedata.normalize("NFKD", readable).encode("ascii", "ignore").decode()
    slug = _OTHERS.sub("-", ascii_only).strip("-.")
    if len(slug) > _SLUG_CHARS:  # the end of a path says most
        slug = slug[-_SLUG_CHARS:].lstrip("-.")
    digest = hashlib.sha256("\0".join(whole).encode(errors="surrogatepass")).hexdigest()
    return f"{slug or 'picture'}-{digest[:_HASH_CHARS]}"
