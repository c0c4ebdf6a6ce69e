"""Tests wait for a condition, never for a moment.

A limit is there to end a hang, so it is long, and it grows with the machine's slowness. That is one
number, measured once when the tests start; workers and child processes read it from the
environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SLOWNESS = "ACE_TESTS_SLOWNESS"
_LIMIT_S = 300.0
_UNHURRIED_S = 0.11  # what `_work` took on an idle core of the machine on which limits were set


def _work() -> int:
    return sum(number * number % 7 for number in range(1_500_000))


def measure_slowness() -> None:
    """Measure how many times slower this machine is than the one the limits were set on.

    Busy neighbours count, since the time is that of the wall. Idempotent: child processes keep the
    number of the process that started them.
    """
    if _SLOWNESS not in os.environ:
        started = time.perf_counter()
        _work()
        took = time.perf_counter() - started
        os.environ[_SLOWNESS] = f"{max(1.0, took / _UNHURRIED_S):.1f}"


def limit_s(seconds: float = _LIMIT_S) -> float:
    """Return a limit that ends a hang on this machine; `seconds` on an idle one."""
    return seconds * float(os.environ.get(_SLOWNESS, "1"))


def wait_until(
    condition: Callable[[], T],
    what: str,
    *,
    output: Callable[[], str] | None = None,
    every_s: float = 0.1,
) -> T:
    """Wait until `condition` returns something true, and return that.

    `what` completes "waited for …"; `output` gives the last output of the process that should
    bring it about. Raises AssertionError with both once the limit has passed.
    """
    deadline = time.monotonic() + limit_s()
    while not (found := condition()):
        if time.monotonic() > deadline:
            last = f":\n{output()}" if output else ""
            raise AssertionError(f"waited {limit_s():.0f} s for {what}; found {found!r}{last}")
        time.sleep(every_s)
    return found
