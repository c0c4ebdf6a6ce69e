"""Trials of a store: before a run, before a deletion, and for a person.

A record is written with `If-None-Match: *`. That two runs cannot overwrite each other's records
rests on the store alone, so a run tries it out first. `check_output` raises what is wrong;
`ace_tasks.store_report` tells all that was seen.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from ace_tasks.errors import (
    BucketMissing,
    Forbidden,
    NoConditionalWrites,
    NotFound,
    OutputRefused,
    StoreUnavailable,
)
from ace_tasks.store import Store, join_uri, split_uri
from ace_tasks.store_errors import CREDENTIAL_CODES, status_of

P = TypeVar("P", bound="Prober")

WRITERS, KEYS = 2, 40
_REMOVERS = 8
_TEXT = "text/plain"
_START_PATIENCE_S = 5.0
# Statuses that tell how a store takes a condition; any other is trouble with the request.
_TELLING = {400, 405, 409, 412, 500, 501}
_UNKNOWN = {400, 405, 501}
_PASSING = {409, 500}

# Stores that this process has proved, by address and bucket: one that runs several flows asks once.
_proved: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class Answer:
    """A store's answer to one conditional write, by its HTTP status."""

    status: int

    @property
    def wrote(self) -> bool:
        return self.status == 200


class Prober(Store):
    """A client whose conditional writes are sent once, so that each answer is the store's own.

    Its keys lie under `folder`, which nobody else uses. `remove` deletes all that it wrote.
    """

    def __init__(self, store: Store, prefix_uri: str):
        connections = max(store.settings.max_connections, WRITERS * KEYS)
        settings = {"max_attempts": 1, "max_connections": connections}
        super().__init__(store.settings.model_copy(update=settings))
        self.folder = join_uri(prefix_uri, f".probe-{uuid.uuid4().hex}")
        self.place = self._client.meta.endpoint_url, split_uri(prefix_uri)[0]
        self.keeps_versions = False
        self._written: dict[str, set[str]] = {}  # URI → ids of its versions
        self._gate = threading.local()
        self._client.meta.events.register("before-send.s3.PutObject", self._wait_at_gate)

    def check_address(self) -> None:
        """List nothing. Raises what `list` raises; StoreUnavailable already after 5 s.

        No answer at the start more likely means a wrong address than an outage.
        """
        bucket, _ = split_uri(self.folder)
        look = {"Bucket": bucket, "Prefix": self.folder_key, "MaxKeys": 1}
        self._call(self.folder, lambda: self._client.list_objects_v2(**look), _START_PATIENCE_S)

    @property
    def folder_key(self) -> str:
        return split_uri(self.folder)[1]

    def uri(self, name: str) -> str:
        """Return the URI of one of its keys, which `remove` deletes."""
        uri = join_uri(self.folder, name)
        self._written.setdefault(uri, set())
        return uri

    def overwrite(self, name: str, data: bytes) -> None:
        """Write a key on no condition. Raises what `put` raises."""
        uri = self.uri(name)
        self._note(uri, self._put(uri, data, _TEXT))

    def create(self, name: str, data: bytes, gate: threading.Barrier | None = None) -> Answer:
        """Write a key unless it exists. With a gate, the request leaves as that opens.

        Raises what `put` raises; a 503 or a lost connection is tried again, behind no gate.
        """
        uri = self.uri(name)
        self._gate.barrier = gate

        def put() -> Answer:
            send = partial(self._send_put, uri, data, _TEXT, IfNoneMatch="*")
            try:
                self._note(uri, self._checksums.attempt(send))
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if status_of(error) not in _TELLING or code in CREDENTIAL_CODES:
                    raise
                return Answer(status_of(error))
            return Answer(200)

        return self._call(uri, put)

    def holds(self, name: str, data: bytes) -> bool:
        """Return whether a key holds these bytes."""
        try:
            return self.get(self.uri(name)) == data
        except NotFound:
            return False

    def hide(self, name: str) -> None:
        """Delete a key as any client does: a bucket that keeps versions puts a marker there."""
        uri = self.uri(name)
        bucket, key = split_uri(uri)
        self._note(uri, self._call(uri, lambda: self._client.delete_object(Bucket=bucket, Key=key)))

    def abandon(self) -> None:
        """Try nothing again from now on."""
        self._abandoned.set()

    def remove(self) -> None:
        """Delete all that was written, older versions and markers included.

        Versions are found by a listing; where that is not allowed, by what the store answered.
        Where none may be deleted, the newest is at least hidden.
        """
        with contextlib.suppress(Forbidden):
            for uri, version_id, _ in self._versions(self.folder) if self.keeps_versions else ():
                self._written[uri].add(version_id)
        with ThreadPoolExecutor(_REMOVERS) as pool:
            list(pool.map(self._remove, self._written))

    def _remove(self, uri: str) -> None:
        try:
            for version_id in self._written[uri]:
                self._delete_version(uri, version_id)
            if self.keeps_versions:  # a deletion would leave a marker
                return
        except Forbidden:
            pass
        self.delete(uri)

    def _note(self, uri: str, answer: dict[str, Any]) -> None:
        version_id = answer.get("VersionId", "null")
        if version_id != "null":
            self.keeps_versions = True
            self._written[uri].add(version_id)

    def _wait_at_gate(self, **_: Any) -> None:
        """Hold a request that is ready to be sent. botocore calls this for every PUT."""
        barrier, self._gate.barrier = getattr(self._gate, "barrier", None), None
        if barrier:
            barrier.wait()


@contextmanager
def probing(store: Store, prefix_uri: str, kind: type[P]) -> Iterator[P]:
    """Yield a prober under a prefix, and delete what it wrote, also where the body fails."""
    prober = kind(store, prefix_uri)
    try:
        yield prober
    except BaseException:
        prober.abandon()
        with contextlib.suppress(Exception):  # the first error is the one to report
            prober.remove()
        raise
    prober.remove()


# ---------------------------------------------------------------- conditional writes


def condition_fault(prober: Prober) -> str | None:
    """Return what is wrong with this store's `If-None-Match: *`, one writer at a time, or None.

    In a bucket that keeps versions the condition has to look at the newest version, which is a
    marker once the key is deleted; so a key is deleted and written again.
    """
    for data in (b"1", b"2"):
        first = prober.create("order", data)
        if first.status in _UNKNOWN:
            return f"does not know If-None-Match on a PUT (HTTP {first.status})"
        there = first.wrote or prober.holds("order", data)
        if not there and first.status in _PASSING:
            there = prober.put_if_absent(prober.uri("order"), data, _TEXT)
        if not there:
            return (
                f"refuses If-None-Match on a key that does not exist (HTTP {first.status}), "
                "as if the condition were inverted"
            )
        second = prober.create("order", b"overwritten")
        if second.wrote or not prober.holds("order", data):
            return "ignores If-None-Match"
        prober.hide("order")
    return None


@dataclass(frozen=True, slots=True)
class Race:
    """The outcome of a race: how many writers won each key, and all answers by their status."""

    winners: tuple[int, ...]
    statuses: Counter[int]

    @property
    def most_winners(self) -> int:
        return max(self.winners)

    @property
    def undecided(self) -> int:
        """The number of keys that nobody won, such as those of answers that were lost."""
        return self.winners.count(0)


def race(prober: Prober, writers: int = WRITERS, keys: int = KEYS) -> Race:
    """Have writers race for each of some keys, only if it is absent.

    A store that looks first and writes later lets two writers win if both look before either
    writes. The requests for a key wait, signed, until all are ready, so they leave within a few
    milliseconds. If such a store fails for one key with probability p, it passes with
    (1 - p) ** keys: with 40 keys it is found with 99.9 % from p = 0.159 on, since 0.841 ** 40
    is 0.001. `tests/test_store_check.py` measures p for a store that takes a few milliseconds
    between the two.

    All keys are raced for at once, and by two writers: a store that locks a key may let each loser
    wait for a second and try again, as SeaweedFS does; of eight, the last one waited for five.
    Raises what `put` raises.
    """
    gates = [threading.Barrier(writers) for _ in range(keys)]

    def write(number: int, writer: int) -> int:
        try:
            prober.holds(f"{number}", b"")  # it does not exist; this opens the connection
            return prober.create(f"{number}", b"%d" % writer, gates[number]).status
        except threading.BrokenBarrierError:  # the other writer's error is the one to report
            return 0
        except BaseException:
            gates[number].abort()
            raise

    def enter(number: int) -> list[int]:
        with ThreadPoolExecutor(writers) as pool:
            return list(pool.map(partial(write, number), range(writers)))

    with ThreadPoolExecutor(keys) as pool:
        statuses = list(pool.map(enter, range(keys)))
    winners = [each.count(200) for each in statuses]
    return Race(tuple(winners), Counter(itertools.chain.from_iterable(statuses)))


def race_fault(prober: Prober) -> str | None:
    """Return what is wrong with concurrent conditional writes, or None."""
    seen = race(prober, WRITERS, KEYS)
    if seen.most_winners > 1:
        return f"lets {seen.most_winners} concurrent If-None-Match writes of one key win"
    if seen.undecided > KEYS // 4:
        raise StoreUnavailable(
            prober.folder, f"{seen.undecided} of {KEYS} keys got neither of two writes at once"
        )
    return None


# ---------------------------------------------------------------- before a run, or a deletion


def check_output(store: Store, prefix_uri: str, *, unguarded: bool = False) -> None:
    """Prove before any work that we can write here and that If-None-Match is honoured.

    Raises OutputRefused, CredentialsError and StoreUnavailable. Also raises
    NoConditionalWrites unless `unguarded`, which accepts that two runs of one catalog may
    publish an item twice.
    """
    try:
        with probing(store, prefix_uri, Prober) as prober:
            prober.check_address()
            prober.overwrite("write", b"")  # first, so that only the condition is new
            if unguarded:
                return
            fault = condition_fault(prober)
            if not fault and prober.place not in _proved:
                fault = race_fault(prober)
    except (BucketMissing, NotFound, Forbidden) as error:
        raise OutputRefused(f"cannot write under {prefix_uri}: {error}") from None
    if fault:
        raise NoConditionalWrites(
            f"the store of {prefix_uri} {fault}, so two runs could overwrite each other's "
            "records; use a store that honours If-None-Match, or allow unguarded writes and never "
            "start two runs over one output at once"
        )
    _proved.add(prober.place)


def check_purge(store: Store, prefix_uri: str) -> None:
    """Prove that we may write here and delete for good, older versions included.

    It writes an object twice and deletes it with every call that `purge` makes. Raises
    OutputRefused, which names the missing right, and StoreUnavailable.
    """
    probe = join_uri(prefix_uri, f".probe-{uuid.uuid4().hex}")

    def put() -> object:
        return store.put(probe, b"probe", _TEXT)

    def see_versions() -> None:
        _, version_id = store.get_version(probe)
        if version_id and not store.versions(probe):
            raise NotFound(probe, "the bucket keeps versions, and its store lists none")

    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("s3:ListBucketVersions", lambda: store.versions(probe)),
        ("s3:PutObject", put),
        ("s3:PutObject", put),
        ("s3:GetObject", see_versions),
        ("s3:DeleteObject", lambda: store.delete(probe)),
        ("s3:DeleteObjectVersion", lambda: store.purge(probe)),
    )
    for right, step in steps:
        try:
            step()
        except (BucketMissing, NotFound, Forbidden) as error:
            raise OutputRefused(
                f"cannot delete for good under {prefix_uri}: {right} is refused ({error}); "
                "nothing was deleted"
            ) from None
