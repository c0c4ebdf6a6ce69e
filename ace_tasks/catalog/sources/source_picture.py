"""A picture that a source names, and the id of its row."""

from __future__ import annotations

import hashlib
import os.path
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The suffixes of files that `images` decodes. Browsers accept all six for JPEG.
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp"})
SUFFIXES = JPEG_SUFFIXES | {".png", ".webp", ".avif"}
# Files that macOS, Windows and Synology add to a folder of pictures.
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", ".Trashes", ".Spotlight-V100", ".fseventsd"})
_SYSTEM_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

_VALID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_OTHERS = re.compile(r"[^A-Za-z0-9._-]+")
_SLUG_CHARS, _HASH_CHARS = 80, 10


@dataclass(frozen=True, slots=True)
class SourcePicture:
    """A picture that a source names.

    `names` holds the names that it may be called by, its own first. Under a prefix that is its key
    below the prefix without the extension, and in a table its id or its file's name. `folder` is
    its folder below the prefix, "" at the top, or None if it comes from a table. `where` is the
    place in a file that names it, such as `feed.csv, line 7`, or "" without a file.
    """

    uri: str
    row_id: str
    names: tuple[str, ...]
    mask: Any = None  # the cell of its table's column mask
    columns: Mapping[str, Any] = field(default_factory=dict)  # all cells of its row
    folder: str | None = None
    where: str = ""

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class GeneratedRow:
    """A row that a run generates for a picture, and its place in the source's file."""

    cells: dict[str, Any]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or row of a source that is not a new picture. It is counted but gets no row."""

    name: str
    why: str = "no picture"


def why_skipped(key: str) -> str | None:
    """Return why a key under a prefix is passed over, or None for a picture."""
    *folders, name = key.split("/")
    if name.startswith("._") or name in _SYSTEM_FILES or not _SYSTEM_FOLDERS.isdisjoint(folders):
        return "written by the system"
    return None if is_picture(name) else "no picture"


def is_picture(key: str) -> bool:
    return os.path.splitext(key)[1].lower() in SUFFIXES  # Path objects are slow for a million keys


def file_name(key: str) -> str:
    """Return the last part of a key, without its extension."""
    return os.path.splitext(key.rpartition("/")[2])[0]


def composed(name: str) -> str:
    """Return the name in Unicode's form NFC.

    A Mac writes `ë` as two characters, most other systems as one.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def row_id_of(text: str, *more: int) -> str:
    """Return a valid row id for a text, and for one of several pictures of it if `more` is given.

    The id depends on nothing else that the source holds, so it never changes. It is `text` itself
    if that is a valid id, such as a key below its prefix, with its extension. Else it is the valid
    characters of `text` without a picture's extension, and ten hex digits of the SHA-256 of all of
    it: `shoes/red shoe.jpg` becomes `shoes-red-shoe-` and the digits. So no two keys share an id:
    the first kind ends in a picture's extension, the second in digits that differ for each key.
    """
    if not more and _VALID.fullmatch(text) and text not in {".", ".."}:
        return text
    stem = os.path.splitext(text)[0] if is_picture(text) else text
    return unique_id("-".join([stem, *map(str, more)]), text, *map(str, more))


def unique_id(readable: str, *whole: str) -> str:
    """Return the valid characters of `readable`, and ten hex digits of the SHA-256 of `whole`."""
    ascii_only = unicodedata.normalize("NFKD", readable).encode("ascii", "ignore").decode()
    slug = _OTHERS.sub("-", ascii_only).strip("-.")
    if len(slug) > _SLUG_CHARS:  # the end of a path is the most telling part
        slug = slug[-_SLUG_CHARS:].lstrip("-.")
    digest = hashlib.sha256("\0".join(whole).encode(errors="surrogatepass")).hexdigest()
    return f"{slug or 'picture'}-{digest[:_HASH_CHARS]}"
