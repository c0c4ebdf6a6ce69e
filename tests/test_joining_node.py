"""Nodes come while a run is at work. If this breaks, machines that an autoscaler brought stand
beside a run that does not use them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from infra.services import ROOT


@pytest.mark.slow
def test_a_node_that_joins_is_used_and_is_given_back() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.joining_node"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    # [ready, waiting for a node, nodes]
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "before": [1, 1, 1],
        "after": [2, 1, 2],
        "makers": 2,
        "at_the_end": [1, 0],
    }
