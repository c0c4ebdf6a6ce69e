"""Sets of item ids by the million, at 32 bytes each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import islice

import numpy as np

_DIGEST = np.dtype("S32")
_AT_ONCE = 65_536


class ItemIds(Set[str]):
    """A set of item ids (SHA-256 in hex), kept as a sorted array of 32 bytes each.

    A set of strings takes 180 bytes each, and a catalog may have ten million rows. Texts that are
    not item ids are left out.
    """

    def __init__(self, item_ids: Iterable[str] = ()):
        parts = [_digests(each) for each in _batches(item_ids)]
        self._sorted = _unique(np.concatenate([np.empty(0, _DIGEST), *parts]))

    @classmethod
    def _of(cls, ordered: np.ndarray) -> ItemIds:
        made = cls.__new__(cls)
        made._sorted = ordered
        return made

    @classmethod
    def of_batches(cls, batches: Iterable[list[str]], expected: int) -> ItemIds:
        """Return the set of some ids. If no more than `expected` come, nothing is copied."""
        digests, end = np.empty(expected, _DIGEST), 0
        for each in batches:
            found = _digests(each)
            if end + len(found) > len(digests):
                digests = np.resize(digests, 2 * end + len(found))
            digests[end : end + len(found)] = found
            end += len(found)
        return cls._of(_unique(digests[:end]))

    def holds(self, others: ItemIds) -> np.ndarray:
        """Return booleans: whether each id of another set, in its order, is in this one."""
        return self._find(others._sorted)[1]

    def marked(self, item_ids: Iterable[str]) -> np.ndarray:
        """Return booleans: whether each id of this set occurs in `item_ids`, among any others."""
        found = np.zeros(len(self), bool)
        for each in _batches(item_ids):
            at, known = self._find(_digests(each))
            found[at[known]] = True
        return found

    def where(self, marks: np.ndarray) -> ItemIds:
        """Return the ids that are marked."""
        return self if marks.all() else self._of(self._sorted[marks])

    def among(self, item_ids: Iterable[str]) -> ItemIds:
        """Return the ids of this set that occur in `item_ids`, among any number of others."""
        return self.where(self.marked(item_ids))

    def without(self, others: ItemIds) -> ItemIds:
        return self.where(~others.holds(self))

    def positions(self, item_ids: list[str]) -> np.ndarray:
        """Return the position of each of these ids in sorted order; -1 if it is not in the set."""
        at, there = self._find(digests_of(item_ids))
        return np.where(there, at, -1)

    def positions_of_starts(self, starts: list[str]) -> np.ndarray:
        """Return the position of the first id with each of these starts of 16 characters, or -1."""
        wanted = np.frombuffer(bytes.fromhex("".join(starts)), np.uint8).reshape(-1, 8)
        at = np.searchsorted(self._sorted, np.pad(wanted, ((0, 0), (0, 24))).view(_DIGEST)[:, 0])
        there = at < len(self)
        found = self._sorted.view(np.uint8).reshape(-1, 32)[at[there], :8]
        there[there] = (found == wanted[there]).all(axis=1)
        return np.where(there, at, -1)

    def at(self, positions: np.ndarray) -> list[str]:
        """Return the ids at these positions."""
        packed = self._sorted[positions].tobytes()
        return [packed[n : n + 32].hex() for n in range(0, len(packed), 32)]

    def _find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the position of each digest, or where it would go, and whether it is there."""
        at, there = np.empty(len(digests), np.int64), np.zeros(len(digests), bool)
        for start in range(0, len(digests), _AT_ONCE):
            part = digests[start : start + _AT_ONCE]
            places = at[start : start + _AT_ONCE] = np.searchsorted(self._sorted, part)
            inside = places < len(self)
            inside[inside] = self._sorted[places[inside]] == part[inside]
            there[start : start + _AT_ONCE] = inside
        return at, there

    def __contains__(self, item_id: object) -> bool:
        return bool(self._find(_digests([str(item_id)]))[1].any())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            packed = self._sorted[start : start + _AT_ONCE].tobytes()
            yield from (packed[n : n + 32].hex() for n in range(0, len(packed), 32))

    def __len__(self) -> int:
        return len(self._sorted)


def digests_of(item_ids: list[str]) -> np.ndarray:
    """Return item ids as 32 bytes each. Raises ValueError if a text is not an item id."""
    if len(digests := _digests(item_ids)) != len(item_ids):
        raise ValueError("accepted: item ids; given something else among them")
    return digests


def _unique(digests: np.ndarray) -> np.ndarray:
    """Return the digests in order, each once. This sorts them in place."""
    digests.sort()
    first = np.ones(len(digests), bool)
    for start in range(1, len(digests), _AT_ONCE):  # comparing all at once would copy them
        part = digests[start - 1 : start + _AT_ONCE]
        first[start : start + len(part) - 1] = part[1:] != part[:-1]
    return digests if first.all() else digests[first]


def _batches(item_ids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(item_ids)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch


def _digests(item_ids: list[str]) -> np.ndarray:
    """Return the digests of the texts that are item ids: anything may lie under `records/`."""
    return np.frombuffer(b"".join(filter(None, map(_digest, item_ids))), _DIGEST)


def _digest(item_id: str) -> bytes | None:
    try:
        digest = bytes.fromhex(item_id)
    except ValueError:
        return None
    return digest if len(digest) == _DIGEST.itemsize and digest.hex() == item_id else None
