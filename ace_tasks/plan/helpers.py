"""Processes that help to plan a long catalog: they check its rows and make items of them.

The process that plans reads the rows, asks the store and writes the plan. It sends chunks of rows
to its helpers, each chunk twice: to be checked, and to be made into items once its sources are
known. A helper writes its rows into a file of its own and answers where they are. These answers are
taken in the order of the catalog, so a plan is the same with helpers or without. A helper that ends
costs nothing but time: its chunks are done here.

Helpers are commands of their own, since `multiprocessing` would run the caller's `__main__` once
more in each of them, which may be a flow run, or somebody's script. They end with their input, so
none outlives the process that plans, however that ends.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count, cycle, islice
from pathlib import Path
from typing import Any

from ace_tasks.catalog.files import Reject, Specs
from ace_tasks.catalog.readers.row import Row
from ace_tasks.cgroups import core_limit
from ace_tasks.errors import AceError
from ace_tasks.plan.identify import WINDOW, Identities, ahead
from ace_tasks.plan.row_work import CheckedChunk, RowWork, SourceFacts
from ace_tasks.plan.spool import RowsFile, Spool, SpoolEntry
from ace_tasks.settings import cpu_count
from ace_tasks.specs import Source

log = logging.getLogger(__name__)

# Two seconds of work. A helper takes half a second to start.
_ALONE_ROWS = 20_000
# What is left to the process that plans takes two thirds of the time, so more would wait for it.
_MOST_HELPERS = 3
# The process that plans takes one, and what else runs beside it another: on two busy cores a helper
# gained nothing.
_CORES_KEPT = 2
_PIPE_BYTES = 2**18  # else a thread waits for its turn after every 64 KB
_CHUNKS_EACH = 2  # on their way to a helper and back, for checks and for items
_COMMAND = (
    "import sys, pickle; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from ace_tasks.plan.helpers import serve; serve()"
)


def add_rows(spool: Spool, specs: Specs, work: RowWork, identities: Identities) -> None:
    """Check and identify the rows of a catalog, and spool them in order. A long one gets helpers."""
    rows = iter(specs.rows)
    for entry in work.here(replace(specs, rows=islice(rows, _ALONE_ROWS)), identities, spool.file):
        spool.add(entry)
    if (row := next(rows, None)) is None:
        return
    rest = replace(specs, rows=chain([row], rows))
    with closing(Helpers(work, spool, _number())) as helpers:
        for entry in helpers.entries(rest, identities):
            spool.add(entry)


def _number() -> int:
    """Return how many helpers the cores that this process may use leave room for."""
    return max(0, min(int(min(cpu_count(), core_limit())) - _CORES_KEPT, _MOST_HELPERS))


class Helpers:
    """Some processes that do the work on rows, or none, and then it is done here."""

    def __init__(self, work: RowWork, spool: Spool, number: int):
        self._work, self._file = work, spool.file
        self._helpers = [_Helper(work, spool.folder, n) for n in range(1, number + 1)]

    def close(self) -> None:
        """End the processes, whatever they do."""
        for each in self._helpers:
            each.close()

    def entries(self, specs: Specs, identities: Identities) -> Iterator[SpoolEntry]:
        """Yield an entry for each row, in order."""
        if not self._helpers:
            yield from self._work.here(specs, identities, self._file)
            return
        given = zip(_chunks(iter(specs.rows)), count(), cycle(self._helpers))
        chunks = (_Chunk(rows, number, helper) for rows, number, helper in given)
        on_the_way = _CHUNKS_EACH * len(self._helpers)  # which bounds what is in memory
        checked = ahead(map(self._begin_checks, chunks), on_the_way)
        asked = ahead((_begin_questions(each, specs.guard, identities) for each in checked), 1)
        made = ahead((self._begin_items(each, identities) for each in asked), on_the_way)
        yield from chain.from_iterable(made)

    def _begin_checks(self, chunk: _Chunk) -> Callable[[], _Chunk]:
        answer = chunk.helper.call("check", chunk.number, chunk.rows)

        def finish() -> _Chunk:
            try:
                chunk.named, chunk.uris = answer.result()
            except _HelperLost:
                chunk.checked = self._work.check(chunk.rows)
                chunk.named, chunk.uris = chunk.checked.named(), chunk.checked.sources()
            return chunk

        return finish

    def _begin_items(self, chunk: _Chunk, identities: Identities) -> Callable[[], list[SpoolEntry]]:
        facts = [_facts(identities.source(uri)) for uri in chunk.uris]
        answer = None if chunk.checked else chunk.helper.call("items", chunk.number, facts)

        def finish() -> list[SpoolEntry]:
            if answer:
                with suppress(_HelperLost):
                    entries: list[SpoolEntry] = answer.result()
                    return entries
            checked = chunk.checked or self._work.check(chunk.rows)
            return self._work.entries(checked, facts, self._file)

        return finish


@dataclass(eq=False)
class _Chunk:
    """Some consecutive rows, and what is known of them so far."""

    rows: list[Row | Reject]
    number: int
    helper: _Helper
    named: list[tuple[int, list[str]]] = field(default_factory=list)  # for the catalog's guard
    uris: list[str] = field(default_factory=list)  # to look up
    checked: CheckedChunk | None = None  # if it was checked here


def _chunks(rows: Iterator[Row | Reject]) -> Iterator[list[Row | Reject]]:
    """Yield the rows in chunks. Those before an error of the file come before the error."""
    while True:
        chunk: list[Row | Reject] = []
        try:
            for row in islice(rows, WINDOW):
                chunk.append(row)
        except AceError:
            yield chunk
            raise
        if not chunk:
            return
        yield chunk


def _begin_questions(
    chunk: _Chunk, guard: Callable[[int, list[str]], None] | None, identities: Identities
) -> Callable[[], _Chunk]:
    if guard:
        for line, uris in chunk.named:
            guard(line, uris)
    answered = identities.ask(chunk.uris)

    def finish() -> _Chunk:
        answered()
        return chunk

    return finish


def _facts(source: Source) -> SourceFacts:
    return source.uri, source.etag, source.size_bytes, source.sha256, source.problem


class _HelperLost(Exception):
    """The process ended before it gave an answer."""


class _Helper:
    """A process that does the work on rows, and the thread that speaks with it."""

    def __init__(self, work: RowWork, folder: Path, number: int):
        self._thread = ThreadPoolExecutor(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_lost = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pipesize=_PIPE_BYTES,
            )
        except OSError as error:  # such as a limit of processes
            log.warning("a process that would help to plan did not start: %s", error)
            return
        self._thread.submit(self._send, sys.path, (work, folder, number))

    def call(self, action: str, number: int, content: object) -> Future[Any]:
        """Have a chunk checked or made into items. The answer raises _HelperLost, or what it met."""
        return self._thread.submit(self._call, action, number, content)

    def _call(self, *call: object) -> Any:
        if not self._process or self._is_lost:
            raise _HelperLost
        try:
            self._send(call)
            assert self._process.stdout
            answer, error = pickle.load(self._process.stdout)  # it is our own process
        except (OSError, EOFError, pickle.UnpicklingError):
            self._is_lost = True
            status = self._process.wait()
            log.warning(
                "a process that helped to plan ended (status %s); its rows are planned here", status
            )
            raise _HelperLost from None
        if error:
            raise error
        return answer

    def _send(self, *contents: object) -> None:
        assert self._process
        assert self._process.stdin
        for each in contents:
            pickle.dump(each, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def close(self) -> None:
        if self._process:
            self._process.kill()  # it holds nothing
        self._thread.shutdown(cancel_futures=True)
        if self._process:
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


def serve() -> None:
    """Do what the process that started this one asks for, until that closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for that process
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between answers
    with suppress(EOFError, OSError):
        work, folder, number = pickle.load(calls)
        served = _Served(work, RowsFile(folder, number))
        gc.freeze()
        while True:
            answer = served.answer(*pickle.load(calls))
            answers.write(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))
            answers.flush()
    os._exit(0)  # without the flush of a pipe that nobody reads


class _Served:
    """The work that a helper does."""

    def __init__(self, work: RowWork, file: RowsFile):
        self._work, self._file = work, file
        self._checked: dict[int, CheckedChunk] = {}  # by the chunk's number

    def answer(self, action: str, number: int, content: Any) -> tuple[object, Exception | None]:
        """Return the answer to a call, or the exception that it met, with its traceback as a note."""
        try:
            if action == "items":
                checked = self._checked.pop(number)
                return self._work.entries(checked, content, self._file), None
            chunk = self._checked[number] = self._work.check(content)
            return (chunk.named(), chunk.sources()), None
        except Exception as error:
            error.add_note(f"in a process that helps to plan:\n{traceback.format_exc()}")
            return None, error
