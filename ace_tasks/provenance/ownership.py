"""Proof that one of our runs wrote an object under an output.

Nothing is deleted for its place alone, because a shop may keep its own pictures under `images/`. A
picture is ours if three things hold: its key has the form that `keys` defines, the output contains
a marker of ours, and the hash in its name is that of its content.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from pydantic import ValidationError

from ace_tasks.errors import NotFound, OutputRefused
from ace_tasks.provenance.keys import review_prefix
from ace_tasks.provenance.record import Record
from ace_tasks.specs import EXTENSIONS, MEDIA_TYPES, quote
from ace_tasks.store import Store, join_uri

MEDIA_TYPE_BY_EXTENSION = {EXTENSIONS[name]: kind for name, kind in MEDIA_TYPES.items()}
"""The media type of a picture, by the extension of its key."""

_ROW = r"(?P<row_id>[A-Za-z0-9._-]{1,128})"
_EXTENSION = "|".join(EXTENSIONS.values())
_NAME = rf"(?P<start>[0-9a-f]{{16}})\.(?:\d+\.)?(?P<hash>[0-9a-f]{{8}})\.(?:{_EXTENSION})"
_PICTURE = re.compile(rf"(?P<kind>images|candidates|review)/{_ROW}/{_NAME}")
_MARKER = re.compile(
    r"records/[0-9a-f]{2}/[0-9a-f]{64}\.json|runs/[^/]+/plan\.parquet|forgotten/[0-9a-f]{64}\.json"
)


@dataclass(frozen=True)
class PictureKey:
    """The key of a published, kept or held picture, relative to its output URI."""

    key: str
    kind: str
    row_id: str
    start: str  # the first 16 characters of the item's id
    hash: str  # the first 8 characters of the content's SHA-256

    @classmethod
    def parse(cls, key: str) -> PictureKey | None:
        """Return the parts of a key of ours; None for any other."""
        found = _PICTURE.fullmatch(key)
        return cls(key=key, **found.groupdict()) if found else None

    @classmethod
    def at(cls, uri: str) -> PictureKey | None:
        """Return the key at the end of a URI, under any output, because outputs may be moved."""
        return cls.parse("/".join(uri.rsplit("/", 3)[1:]))

    def holds(self, data: bytes) -> bool:
        """Return whether the content has the hash that is in the name."""
        return hashlib.sha256(data).hexdigest().startswith(self.hash)


def check_is_output(store: Store, output_uri: str) -> None:
    """Raise OutputRefused if no run has ever written a plan, a record or a tombstone there."""
    for kind in ("runs/", "records/", "forgotten/"):
        for each in store.list(join_uri(output_uri, kind)):
            if _MARKER.fullmatch(each.uri.removeprefix(join_uri(output_uri, ""))):
                return
    raise OutputRefused(
        f"output: accepted: a place in which runs have written (it holds their records/ or "
        f"runs/); given {quote(output_uri)}"
    )


def is_named(store: Store, output_uri: str, uri: str) -> bool:
    """Return whether a record of this output names the object at `uri` as its picture."""
    picture = PictureKey.parse(uri.removeprefix(join_uri(output_uri, "")))
    return picture is not None and NamedPictures(store, output_uri).has(picture)


@dataclass(frozen=True)
class NamedPictures:
    """The pictures that an output's records name. Every query reads the records again."""

    store: Store
    output_uri: str

    def has(self, picture: PictureKey) -> bool:
        """Return whether a record names the picture. Records held for a person count.

        An unreadable record may name anything, so it counts as naming every picture of its item.
        """
        if self._is_named(picture, f"records/{picture.start[:2]}/{picture.start}"):
            return True
        waiting = review_prefix(picture.row_id, picture.start)
        return picture.kind == "candidates" and self._is_named(picture, waiting)

    def _is_named(self, picture: PictureKey, prefix: str) -> bool:
        for each in self.store.list(join_uri(self.output_uri, prefix)):
            if each.uri.endswith(".json") and self._names(each.uri, picture):
                return True
        return False

    def _names(self, record_uri: str, picture: PictureKey) -> bool:
        try:
            record = Record.model_validate_json(self.store.get(record_uri))
        except NotFound:  # deleted since it was listed
            return False
        except ValidationError:
            return True
        # The key alone counts: an output may have been moved since.
        return any(uri.endswith(f"/{picture.key}") for uri in record.pictures())


def same_picture(one_uri: str, other_uri: str) -> bool:
    """Return whether two URIs name the same picture of ours, wherever its output was."""
    one, other = PictureKey.at(one_uri), PictureKey.at(other_uri)
    return one_uri == other_uri or (one is not None and one == other)


def put_if_missing(store: Store, uri: str, data: bytes, media_type: str) -> None:
    """Write a picture again if it is gone.

    Call this after writing a record, because a sweep may have deleted the picture just before.
    """
    try:
        store.head(uri)
    except NotFound:
        store.put(uri, data, media_type)


def read_picture(store: Store, output_uri: str, uri: str) -> bytes:
    """Read the picture that a record or results name, from this output or else from `uri`.

    An output may have been moved since, which keeps its keys. Raises NotFound.
    """
    picture = PictureKey.at(uri)
    here = join_uri(output_uri, picture.key) if picture else uri
    try:
        return store.get(here)
    except NotFound:
        if here == uri:
            raise
        return store.get(uri)
