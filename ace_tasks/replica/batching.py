"""The one thread that owns a replica's model and runs jobs in batches.

Item threads submit a job and wait. No batch waits to fill up: while one is on the GPU, other jobs
queue, and the next batch takes the oldest job with those of its shape behind it.

The jobs of a batch that fails run again one by one. After running out of memory they run again
with less on the GPU (`replica/ladder.py`). Whatever else fails in the thread, such as the cleaning
up after a pass, is no item's failure: the thread ends, and everybody who waits for it gets
DeviceLost.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from ace_tasks.errors import AceError, Cancelled, DeviceLost, FatalError, OutOfMemory
from ace_tasks.model.ace import ModelJob
from ace_tasks.model.faults import in_one_line, is_device_lost, is_out_of_memory
from ace_tasks.model.fit import MemoryMode
from ace_tasks.replica.ladder import Ladder, Rung

log = logging.getLogger(__name__)

Generate = Callable[[Sequence[ModelJob], MemoryMode], list[np.ndarray]]


class Ticket:
    """A job's place in the queue, and later its picture."""

    def __init__(self, job: ModelJob):
        self.job = job
        self.shared_by = 1  # how many jobs its last pass had
        self.memory: MemoryMode = "resident"  # of its last pass
        self.gpu_s = 0.0  # its share of the pass that made it
        self._state: Literal["waiting", "running", "done"] = "waiting"
        self._news = threading.Condition()
        self._canvas: np.ndarray | None = None
        self._error: BaseException | None = None

    def wait_for_turn(self) -> None:
        """Wait until the job is on the GPU, or done."""
        with self._news:
            self._news.wait_for(lambda: self._state != "waiting")

    def wait_for_pass(self) -> bool:
        """Wait until the job is off the GPU, and return whether it is done.

        If it is not, its batch failed, and the job waits for another turn.
        """
        with self._news:
            self._news.wait_for(lambda: self._state != "running")
            return self._state == "done"

    def result(self) -> np.ndarray:
        """Wait for the canvas, (H, W, 3) uint8. Raises what the model raised."""
        with self._news:
            self._news.wait_for(lambda: self._state == "done")
        if self._error is not None:
            raise self._error
        assert self._canvas is not None
        return self._canvas

    def start(self, shared_by: int, memory: MemoryMode) -> None:
        self.shared_by, self.memory = shared_by, memory
        self._become("running")

    def wait_again(self) -> None:
        self._become("waiting")

    def finish(self, canvas: np.ndarray | None = None, error: BaseException | None = None) -> None:
        self._canvas, self._error = canvas, error
        self._become("done")

    def give_up(self, error: BaseException) -> None:
        """Finish the job with an error, unless it is done."""
        if self._state != "done":
            self.finish(error=error)

    def _become(self, state: Literal["waiting", "running", "done"]) -> None:
        with self._news:
            self._state = state
            self._news.notify_all()


class Batcher:
    """`generate` gets at most `batch_size` jobs of one shape at a time, always on one thread."""

    def __init__(self, generate: Generate, batch_size: int, memory: MemoryMode = "resident"):
        """Take the model's function. `memory` is the mode in which it has started."""
        self._generate = generate
        self._ladder = Ladder(batch_size, memory)
        self._queue: deque[Ticket] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._lost: DeviceLost | None = None  # why the thread ended, if it did so by itself
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def submit(self, job: ModelJob) -> Ticket:
        """Queue a job. Raises Cancelled after `close`, DeviceLost once the thread has failed."""
        ticket = Ticket(job)
        with self._news:
            if self._lost:
                raise self._lost
            if self._closed:
                raise Cancelled("the replica was cancelled")
            self._queue.append(ticket)
            self._news.notify()
        return ticket

    def withdraw(self, tickets: Sequence[Ticket]) -> None:
        """Take back the tickets that are not on the GPU yet. Nobody may be waiting for them."""
        with self._news:
            for ticket in tickets:
                with contextlib.suppress(ValueError):
                    self._queue.remove(ticket)

    def close(self) -> None:
        """End the thread after the pass in progress. Whoever waits gets Cancelled."""
        with self._news:
            self._closed = True
            while self._queue:
                self._queue.popleft().finish(error=Cancelled("the replica was cancelled"))
            self._news.notify()

    def _work(self) -> None:
        batch: list[Ticket] = []
        try:
            while batch := self._next():
                self._make(batch)
        except BaseException as error:  # whatever it is, somebody waits for this thread
            self._end(batch, error)

    def _end(self, batch: Sequence[Ticket], error: BaseException) -> None:
        """Tell everybody who waits, or comes later, that this process makes no more pictures."""
        lost = DeviceLost(f"the model's thread failed: {in_one_line(error)}")
        with self._news:
            self._lost = lost
            waiting = [*batch, *self._queue]
            self._queue.clear()
        for ticket in waiting:
            ticket.give_up(lost)
        log.error("the model's thread failed", exc_info=error)

    def _make(self, batch: list[Ticket]) -> None:
        """Run passes until each ticket of the batch has its picture or its error."""
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            rung = self._ladder.rung(part[0].job)
            error = self._pass(part, rung.mode)
            if error is None:
                continue
            smaller = self._after(error, part, rung)
            if not smaller:
                for ticket in part:
                    ticket.finish(error=error)
            parts = deque(each for part in (*smaller, *parts) for each in _split(part, rung))
            for ticket in (ticket for part in parts for ticket in part):
                ticket.wait_again()  # waiting is not work

    def _after(self, error: BaseException, part: list[Ticket], rung: Rung) -> list[list[Ticket]]:
        """Return the parts in which a failed part is tried again; none if it is not."""
        if isinstance(error, OutOfMemory):
            if self._ladder.descend(part[0].job, len(part)):
                log.warning(
                    "out of memory with %s; now %d at once, %s",
                    self._ladder.story(part[0].job),
                    rung.batch_size,
                    rung.mode,
                )
                return [part]
            error.args = (f"{self._ladder.story(part[0].job)}; {error}",)
            return []
        if len(part) == 1 or isinstance(error, Cancelled | DeviceLost | FatalError):
            return []
        log.warning("a batch of %d failed, each runs alone now: %r", len(part), error)
        return [[ticket] for ticket in part]

    def _next(self) -> list[Ticket]:
        """Return the oldest ticket and the next ones of its shape that fit; none when closed."""
        with self._news:
            self._news.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return []
            first = self._queue[0].job
            alike = [each for each in self._queue if each.job.shape == first.shape]
            batch = alike[: self._ladder.rung(first).batch_size]
            for ticket in batch:
                self._queue.remove(ticket)
            return batch

    def _pass(self, batch: list[Ticket], memory: MemoryMode) -> BaseException | None:
        """Run one pass. Return what it raised, without the frames that hold the GPU's memory."""
        for ticket in batch:
            ticket.start(len(batch), memory)
        started = time.monotonic()
        try:
            canvases = self._generate([ticket.job for ticket in batch], memory)
            for ticket, canvas in zip(batch, canvases, strict=True):
                ticket.gpu_s = (time.monotonic() - started) / len(batch)
                ticket.finish(canvas)
        except BaseException as error:  # whatever it is, somebody waits for it
            return _without_frames(error)
        return None


def _split(part: list[Ticket], rung: Rung) -> list[list[Ticket]]:
    size = rung.batch_size
    return [part[start : start + size] for start in range(0, len(part), size)]


def _without_frames(error: BaseException) -> BaseException:
    """Return the translated error without its frames, whose tensors would live as long as it."""
    translated_error = translated(error)
    if translated_error is error and not isinstance(error, AceError):
        log.error("a pass failed", exc_info=error)
    traceback.clear_frames(error.__traceback__)
    if isinstance(translated_error, OutOfMemory):
        torch.cuda.empty_cache()
    return translated_error.with_traceback(None)


def translated(error: BaseException) -> BaseException:
    """Translate torch's errors about the device to ours. Other errors are returned unchanged."""
    if is_out_of_memory(error):
        return OutOfMemory(in_one_line(error))
    if is_device_lost(error):
        return DeviceLost(in_one_line(error))
    return error
