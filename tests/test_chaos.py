"""A short chaos run; `make chaos SEED=n` is the long one. If it breaks, work is lost or paid for
twice when machines die."""

from __future__ import annotations

import subprocess
import sys

import pytest

from infra.services import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_breaks_and_nothing_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own: a cluster's settings must not reach the other tests."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seed", "7", "--items", "80", "--replica-kills",
         "2", "--node-kills", "1", "--store-kills", "1", "--flow-kills", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    with capfd.disabled():
        print(f"\n{run.stdout.strip()}")
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
