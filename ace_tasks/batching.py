"""The one thread that owns a replica's model, and takes along what waits and fits.

Item threads submit a job and wait. Nothing waits for a batch to fill up: while one batch is on
the GPU others queue, and the next takes the oldest job with those of its shape behind it.
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

from ace_tasks.errors import AceError, Cancelled, DeviceLost, FatalError
from ace_tasks.model.ace import Job

log = logging.getLogger(__name__)


class Ticket:
    """A job's place in the queue, and later its picture."""

    def __init__(self, job: Job):
        self.job = job
        self.shared_by = 1  # how many jobs its last pass had
        self.gpu_s = 0.0  # its share of the pass that made it
        self._state: Literal["waiting", "running", "done"] = "waiting"
        self._news = threading.Condition()
        self._canvas: np.ndarray | None = None
        self._error: BaseException | None = None

    def wait_for_turn(self) -> None:
        """Until it is on the GPU, or done."""
        with self._news:
            self._news.wait_for(lambda: self._state != "waiting")

    def wait_for_pass(self) -> bool:
        """Until it is off the GPU; False: its batch failed, and it waits for another turn."""
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

    def start(self, shared_by: int) -> None:
        self.shared_by = shared_by
        self._become("running")

    def wait_again(self) -> None:
        self._become("waiting")

    def finish(self, canvas: np.ndarray | None = None, error: BaseException | None = None) -> None:
        self._canvas, self._error = canvas, error
        self._become("done")

    def _become(self, state: Literal["waiting", "running", "done"]) -> None:
        with self._news:
            self._state = state
            self._news.notify_all()


class Batcher:
    """`generate` gets at most `batch_size` jobs of one shape at a time, always on one thread."""

    def __init__(self, generate: Callable[[Sequence[Job]], list[np.ndarray]], batch_size: int):
        self._generate = generate
        self._batch_size = batch_size
        self._queue: deque[Ticket] = deque()
        self._news = threading.Condition()
        self._closed = False
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def submit(self, job: Job) -> Ticket:
        """Raises Cancelled after `close`."""
        ticket = Ticket(job)
        with self._news:
            if self._closed:
                raise Cancelled("the replica was cancelled")
            self._queue.append(ticket)
            self._news.notify()
        return ticket

    def withdraw(self, tickets: Sequence[Ticket]) -> None:
        """Take back those that are not on the GPU yet; nobody may be waiting for them."""
        with self._news:
            for ticket in tickets:
                with contextlib.suppress(ValueError):
                    self._queue.remove(ticket)

    def close(self) -> None:
        """End the thread after the pass in progress; whoever waits gets Cancelled."""
        with self._news:
            self._closed = True
            while self._queue:
                self._queue.popleft().finish(error=Cancelled("the replica was cancelled"))
            self._news.notify()

    def _work(self) -> None:
        while batch := self._next():
            error = self._pass(batch)
            if error is None:
                continue
            if len(batch) == 1 or isinstance(error, Cancelled | DeviceLost | FatalError):
                for ticket in batch:
                    ticket.finish(error=error)
            else:
                log.warning("a batch of %d failed, each runs alone now: %r", len(batch), error)
                self._run_alone(batch)

    def _next(self) -> list[Ticket]:
        """The oldest ticket and the next ones of its shape; nothing when closed."""
        with self._news:
            self._news.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return []
            shape = self._queue[0].job.shape
            batch = [each for each in self._queue if each.job.shape == shape][: self._batch_size]
            for ticket in batch:
                self._queue.remove(ticket)
            return batch

    def _run_alone(self, batch: list[Ticket]) -> None:
        for ticket in batch:
            ticket.wait_again()  # waiting is not work
        for ticket in batch:
            error = self._pass([ticket])
            if error is not None:
                ticket.finish(error=error)

    def _pass(self, batch: list[Ticket]) -> BaseException | None:
        """One pass; what it raised, without the frames that hold the GPU's memory."""
        for ticket in batch:
            ticket.start(len(batch))
        started = time.monotonic()
        try:
            canvases = self._generate([ticket.job for ticket in batch])
            for ticket, canvas in zip(batch, canvases, strict=True):
                ticket.gpu_s = (time.monotonic() - started) / len(batch)
                ticket.finish(canvas)
        except BaseException as error:  # whatever it is, somebody waits for it
            return _without_frames(error)
        return None


def _without_frames(error: BaseException) -> BaseException:
    """What an error's frames hold, tensors among it, would live as long as the error."""
    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        error = DeviceLost(f"{type(error).__name__}: {error}"[:300])
    elif not isinstance(error, AceError):
        log.error("a pass failed", exc_info=error)
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    return error.with_traceback(None)
