"""A short chaos run; `make chaos SEED=n` is the long one. If it breaks, work is lost or paid for
twice when machines die."""

from __future__ import annotations

import pytest

from tests.support.patience import limit_s
from tests.support.processes import run_python

_LIMIT_S = 840.0  # two minutes on a quiet machine; shorter than a test may take


@pytest.mark.thorough
def test_everything_breaks_and_nothing_is_lost() -> None:
    """In a process of its own: a cluster's settings must not reach the other tests."""
    ended = run_python(
        "-m",
        "tests.support.chaos",
        "--seed",
        "7",
        "--items",
        "80",
        "--replica-kills",
        "2",
        "--node-kills",
        "1",
        "--store-kills",
        "1",
        "--flow-kills",
        "1",
        "--sweeps",
        "1",
        "--forgets",
        "1",
        limit=limit_s(_LIMIT_S),
    )
    print(ended.stdout)
