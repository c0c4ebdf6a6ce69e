"""Sets of item ids by the million, at 32 bytes each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import islice

import numpy as np

_DIGEST = np.dtype("S32")
_HEX_CHARS = 2 * _DIGEST.itemsize
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

    def marked(self, item_ids: Iterable[str]) -> np.ndarray:
        """Return booleans: whether each id of this set occurs in `item_ids`, among any others."""
        found = np.zeros(len(self), bool)
        for each in _batches(item_ids):
            at, known = self._find(_digests(each))
            found[at[known]] = True
        return found

    def where(self, marks: np.ndarray) -> ItemIds:
        """Return the ids that are marked, as a copy."""
        return self if marks.all() else self._of(self._sorted[marks])

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
        at = np.searchsorted(self._sorted, digests)
        there = at < len(self)
        there[there] = self._sorted[at[there]] == digests[there]
        return at, there

    def find(self, item_id: str) -> int:
        """Return the position of an id in sorted order; -1 if it is not in the set."""
        at, there = self._find(_digests([item_id]))
        return int(at[0]) if there.any() else -1

    def __contains__(self, item_id: object) -> bool:
        return self.find(str(item_id)) >= 0

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            packed = self._sorted[start : start + _AT_ONCE].tobytes()
            yield from (packed[n : n + 32].hex() for n in range(0, len(packed), 32))

    def __len__(self) -> int:
        return len(self._sorted)


class MarkedIds(Set[str]):
    """The ids of a set that are marked, at a byte for each id of that set.

    A copy of them would take 32 bytes each.
    """

    def __init__(self, every: ItemIds, marks: np.ndarray):
        self.every, self.marks = every, marks  # booleans, in the order of `every`

    def positions(self, item_ids: list[str]) -> np.ndarray:
        """Return the position in `every` of each of these ids; -1 if it is not marked."""
        return self._if_marked(self.every.positions(item_ids))

    def positions_of_starts(self, starts: list[str]) -> np.ndarray:
        """Return the same for ids of which the first 16 characters are known."""
        return self._if_marked(self.every.positions_of_starts(starts))

    def _if_marked(self, at: np.ndarray) -> np.ndarray:
        return np.where((at >= 0) & self.marks[at], at, -1) if len(self.marks) else at

    def __contains__(self, item_id: object) -> bool:
        at = self.every.find(str(item_id))
        return at >= 0 and bool(self.marks[at])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.marks), _AT_ONCE):
            here = np.flatnonzero(self.marks[start : start + _AT_ONCE])
            yield from self.every.at(start + here)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.marks))


def digests_of(item_ids: list[str]) -> np.ndarray:
    """Return item ids as 32 bytes each. Raises ValueError if a text is not an item id."""
    if len(digests := _digests(item_ids)) != len(item_ids):
        raise ValueError("accepted: item ids; given something else among them")
    return digests


def _unique(digests: np.ndarray) -> np.ndarray:
    """Return the digests in order, each once. This sorts and moves them in place."""
    digests.sort()
    end = min(1, len(digests))
    for start in range(1, len(digests), _AT_ONCE):  # doing it at once would copy them
        part = digests[start - 1 : start + _AT_ONCE]
        new = part[1:][part[1:] != part[:-1]]
        # Earlier parts were moved to the front at most, so the one before this part still stands.
        digests[end : end + len(new)] = new
        end += len(new)
    return digests[:end]


def _batches(item_ids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(item_ids)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch


def _digests(item_ids: list[str]) -> np.ndarray:
    """Return the digests of the texts that are item ids: anything may lie under `records/`."""
    # Most often all of them are, and the whole text is parsed at once.
    packed = _packed("".join(item_ids)) if set(map(len, item_ids)) == {_HEX_CHARS} else None
    if packed is None:
        packed = b"".join(filter(None, map(_digest, item_ids)))
    return np.frombuffer(packed, _DIGEST)


def _digest(item_id: str) -> bytes | None:
    return _packed(item_id) if len(item_id) == _HEX_CHARS else None


def _packed(text: str) -> bytes | None:
    """Return the bytes of hex in lower case. None: it is something else."""
    try:
        packed = bytes.fromhex(text)
    except ValueError:
        return None
    return packed if packed.hex() == text else None
