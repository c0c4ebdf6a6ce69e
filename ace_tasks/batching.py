"""The one thread that owns a replica's model, and takes along what waits and fits.

Item threads submit a job and wait. Nothing waits for a batch to fill up: while one batch is on
the GPU others queue, and the next takes the oldest job with those of its shape behind it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from ace_tasks.errors import Cancelled, FatalError
from ace_tasks.model.ace import Job

log = logging.getLogger(__name__)


class Ticket:
    """A job's place in the queue, and later its picture."""

    def __init__(self, job: Job):
        self.job = job
        self.started = threading.Event()
        self.shared_by = 1  # how many jobs its batch has
        self._finished = threading.Event()
        self._canvas: np.ndarray | None = None
        self._error: BaseException | None = None

    def result(self) -> np.ndarray:
        """Wait for the canvas, (H, W, 3) uint8. Raises what the model raised."""
        self._finished.wait()
        if self._error is not None:
            raise self._error
        assert self._canvas is not None
        return self._canvas

    def finish(self, canvas: np.ndarray | None = None, error: BaseException | None = None) -> None:
        self._canvas, self._error = canvas, error
        self.started.set()
        self._finished.set()


class Batcher:
    """`generate` gets at most `batch_size` jobs of one shape at a time, always on one thread."""

    def __init__(self, generate: Callable[[Sequence[Job]], list[np.ndarray]], batch_size: int):
        self._generate = generate
        self._batch_size = batch_size
        self._queue: deque[Ticket] = deque()
        self._news = threading.Condition()
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def submit(self, job: Job) -> Ticket:
        ticket = Ticket(job)
        with self._news:
            self._queue.append(ticket)
            self._news.notify()
        return ticket

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue)
                batch = self._take()
            self._run(batch)

    def _take(self) -> list[Ticket]:
        """The oldest ticket, and the next ones of its shape."""
        shape = self._queue[0].job.shape
        batch = [each for each in self._queue if each.job.shape == shape][: self._batch_size]
        for ticket in batch:
            self._queue.remove(ticket)
        return batch

    def _run(self, batch: list[Ticket]) -> None:
        for ticket in batch:
            ticket.shared_by = len(batch)
            ticket.started.set()
        try:
            canvases = self._generate([ticket.job for ticket in batch])
        except (Cancelled, FatalError) as error:
            self._fail(batch, error)
        except BaseException as error:  # whatever it is, somebody waits for it
            if len(batch) == 1:
                self._fail(batch, error)
                return
            log.warning("a batch of %d failed, each runs alone now: %r", len(batch), error)
            for ticket in batch:
                self._run([ticket])
        else:
            for ticket, canvas in zip(batch, canvases, strict=True):
                ticket.finish(canvas)

    def _fail(self, batch: list[Ticket], error: BaseException) -> None:
        for ticket in batch:
            ticket.finish(error=error)
