"""Nodes come while a run is at work. If this breaks, machines that an autoscaler brought stand
beside a run that does not use them."""

from __future__ import annotations

import json

import pytest

from tests.support.processes import run_python


@pytest.mark.thorough
def test_a_node_that_joins_is_used_and_is_given_back() -> None:
    report = run_python("-m", "tests.support.joining_node").stdout.splitlines()[-1]
    # [ready, waiting for a node, nodes]
    assert json.loads(report) == {
        "before": [1, 1, 1],
        "after": [2, 1, 2],
        "waiting_most": 1,
        "makers": 2,
        "at_the_end": [1, 0],
    }
