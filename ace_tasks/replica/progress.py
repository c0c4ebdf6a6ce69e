"""The progress of one item: its phase, and the seconds of each."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

WAITING = "wait_gpu"  # the one phase in which an item is not itself at work


@dataclass
class Progress:
    """The progress of one item: its phase, the seconds of every phase so far, and its hints."""

    phase: str = "queued"
    running: bool = False
    since: float = field(default_factory=time.monotonic)
    timings_s: dict[str, float] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)  # about its mask: code → sentence

    @contextlib.contextmanager
    def in_phase(self, phase: str) -> Iterator[None]:
        self.phase, self.since, self.running = phase, time.monotonic(), True
        try:
            yield
        finally:
            self.running = False
            spent = time.monotonic() - self.since
            self.timings_s[phase] = round(self.timings_s.get(phase, 0) + spent, 4)

    def busy_s(self) -> float:
        """Return how many seconds the item has been at work itself, not waiting for the GPU."""
        timings = self.timings_s.copy()  # its own thread goes on writing
        past = sum(seconds for phase, seconds in timings.items() if phase != WAITING)
        at_work = self.running and self.phase != WAITING
        return past + (time.monotonic() - self.since if at_work else 0)
