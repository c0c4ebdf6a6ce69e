"""Find the picture of every finished item: its URI and its SHA-256.

An item's record holds both, but a catalog may have ten million records. Up to `_READ_AT_MOST`
items, their records are read. For more, the SHA-256 comes from the results of earlier runs and the
URI from one listing of `images/`. A record is read only if these two do not agree on one picture.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ace_tasks.errors import BadRecord, NotFound
from ace_tasks.plan.item_ids import MarkedIds
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.listing import listed_pictures
from ace_tasks.provenance.ownership import PictureKey
from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import read_sha256
from ace_tasks.store import ObjectInfo, Store, join_uri
from ace_tasks.wording import counted

log = logging.getLogger(__name__)

_READ_AT_MOST = 2000  # as many as `resume` reads one by one
_READS_IN_FLIGHT = 32
_AT_ONCE = 10_000
_LINE_BYTES = 2048  # a bucket's name has at most 63 bytes and a key 1024
_RECORD_BYTES = 4096  # size of a usual record, with spec, settings, sources and versions


@dataclass(frozen=True, slots=True)
class FinishedPicture:
    """The URI of an item's picture, and the SHA-256 (hex) of its file."""

    uri: str
    sha256: str


@contextmanager
def finished_pictures(
    store: Store, output_uri: str, item_ids: MarkedIds, scratch: Path
) -> Iterator[FinishedPictures]:
    """Find the pictures of items that have a record. Raises StoreUnavailable.

    URIs and hashes are kept in files in `scratch`. Ten million items take some 100 MB of memory.
    """
    with closing(FinishedPictures(store, output_uri, item_ids, scratch)) as pictures:
        if len(item_ids) > _READ_AT_MOST:
            pictures.read_results()
            pictures.list_pictures()
        pictures.read_records()
        yield pictures


class FinishedPictures:
    """The pictures of marked items, by the item's position among all of them.

    The picture of an item is known once its record was read, or once exactly one picture of it was
    listed and the hash in that picture's key is the beginning of the SHA-256 in earlier results.
    """

    def __init__(self, store: Store, output_uri: str, item_ids: MarkedIds, scratch: Path):
        self._store, self._output_uri = store, output_uri
        self._item_ids, self._scratch = item_ids, scratch
        count = len(item_ids.marks)
        hashes = np.memmap(scratch / "hashes", np.uint8, "w+", shape=(count + 1, 32))
        self._sha256_N32 = hashes.view(np.ndarray)  # indexing the memmap itself is slow
        self._has_sha256_N = np.zeros(count, bool)
        self._listed_N = np.zeros(count, np.int16)  # pictures under images/; 2: too many, or wrong
        # A line for each picture: its key below the output, or its URI if it is elsewhere.
        self._places = (scratch / "places").open("w+b")
        self._places.write(b"none\n")
        self._place_N = np.zeros(count, np.int64)  # where the item's line begins; 0: unknown
        self._lock = threading.Lock()
        self._bad: dict[str, BadRecord] = {}  # item id → why its record cannot be used

    def close(self) -> None:
        self._places.close()
        del self._sha256_N32

    def find(self, item_id: str) -> FinishedPicture | None:
        """Return the picture of an item, or None if it has no record that can be read."""
        (at,) = self._item_ids.positions([item_id])
        if at < 0 or not self._place_N[at]:
            return None
        line = os.pread(self._places.fileno(), _LINE_BYTES, self._place_N[at])
        place = line.partition(b"\n")[0].decode()
        uri = place if "://" in place else join_uri(self._output_uri, place)
        return FinishedPicture(uri, self._sha256_N32[at].tobytes().hex())

    def bad_record(self, item_id: str) -> BadRecord | None:
        """Return what is wrong with an item's record, if it was read and is bad."""
        return self._bad.get(item_id)

    def read_results(self) -> None:
        """Take SHA-256s from the results of earlier runs, newest first.

        It stops when the results take more bytes than the records of the items still unknown.
        """
        path, bytes_read = self._scratch / "earlier.parquet", 0
        for each in self._earlier_results():
            unknown = np.count_nonzero(self._item_ids.marks & ~self._has_sha256_N)
            bytes_read += each.size_bytes
            if unknown <= _READ_AT_MOST or bytes_read > unknown * _RECORD_BYTES:
                return
            try:
                self._store.download(each.uri, path)
                pairs = read_sha256(path)
                while batch := list(islice(pairs, _AT_ONCE)):
                    self._take_sha256(batch)
            except NotFound:  # deleted since it was listed
                continue
            except ValueError as error:
                log.warning("%s cannot be read, reading records instead: %s", each.uri, error)
            finally:
                path.unlink(missing_ok=True)

    def _earlier_results(self) -> list[ObjectInfo]:
        found = self._store.list(join_uri(self._output_uri, "runs/"))
        results = [each for each in found if each.uri.endswith("/results.parquet")]
        return sorted(results, key=lambda each: str(each.modified), reverse=True)

    def _take_sha256(self, pairs: list[tuple[str, str]]) -> None:
        """Keep the (item id, SHA-256) pairs of items that no newer run has named."""
        at = self._item_ids.positions([item_id for item_id, _ in pairs])
        sha256 = _bytes([sha256 for _, sha256 in pairs], 32)
        is_new = (at >= 0) & ~self._has_sha256_N[at]
        self._sha256_N32[at[is_new]] = sha256[is_new]
        self._has_sha256_N[at[is_new]] = True

    def list_pictures(self) -> None:
        """Take URIs from one listing of `images/`."""

        def take(pictures: list[PictureKey]) -> None:
            at = self._item_ids.positions_of_starts([each.start for each in pictures])
            hashes = _bytes([each.hash for each in pictures], 4)
            ours = np.flatnonzero(at >= 0)
            with self._lock:
                self._take_places(at[ours], hashes[ours], [pictures[n].key for n in ours])

        listed_pictures(self._store, self._output_uri, take)

    def _take_places(self, at: np.ndarray, hashes: np.ndarray, keys: list[str]) -> None:
        is_right = self._has_sha256_N[at] & (self._sha256_N32[at, :4] == hashes).all(axis=1)
        np.add.at(self._listed_N, at, np.where(is_right, 1, 2))
        self._listed_N[at] = np.minimum(self._listed_N[at], 2)
        self._place_N[at] = [self._keep(each) for each in keys]

    def _keep(self, place: str) -> int:
        start = self._places.tell()
        self._places.write(f"{place}\n".encode())
        return start

    def read_records(self) -> None:
        """Read the record of every item whose picture is still unknown."""
        is_known = self._has_sha256_N & (self._listed_N == 1)
        unknown = np.flatnonzero(self._item_ids.marks & ~is_known)
        if len(unknown) > _READ_AT_MOST:
            log.info(
                "reading %s to find pictures of finished rows", counted(len(unknown), "record")
            )
        with self._store.in_parallel(_READS_IN_FLIGHT) as pool:
            for start in range(0, len(unknown), _AT_ONCE):
                batch = unknown[start : start + _AT_ONCE]
                found = pool.map(self._recorded, self._item_ids.every.at(batch))
                for at, picture in zip(batch, found, strict=True):
                    self._place_N[at] = self._keep(picture[0]) if picture else 0
                    if picture:
                        self._sha256_N32[at] = _bytes([picture[1]], 32)[0]
        self._places.flush()

    def _recorded(self, item_id: str) -> tuple[str, str] | None:
        """Return the key or URI of an item's picture, and its SHA-256, from its record."""
        uri = join_uri(self._output_uri, record_key(item_id))
        try:
            record = Record.model_validate_json(self._store.get(uri))
        except NotFound:  # deleted since it was listed
            return None
        except ValueError:
            self._bad[item_id] = BadRecord.at(uri, "it cannot be read")
            return None
        if record.item_id != item_id:
            self._bad[item_id] = BadRecord.at(uri, "it belongs to another item")
            return None
        picture, sha256 = PictureKey.at(record.output.uri), record.output.sha256
        if not picture or not sha256.startswith(picture.hash):
            log.warning("%s names a file of another hash, so its rows get no picture", uri)
            return None
        return self._place(record.output.uri, picture.key), sha256

    def _place(self, uri: str, key: str) -> str:
        """Return the key if the picture is under this output, else the URI as it is.

        An output that was copied to another bucket keeps its keys, while its records still name
        the old bucket.
        """
        here = join_uri(self._output_uri, key)
        if uri != here:
            try:
                self._store.head(here)
            except NotFound:
                return uri
        return key


def _bytes(hexes: list[str], width: int) -> np.ndarray:
    """Return hex strings as an array (N, width) uint8. Raises ValueError for anything else."""
    return np.frombuffer(bytes.fromhex("".join(hexes)), np.uint8).reshape(len(hexes), width)
