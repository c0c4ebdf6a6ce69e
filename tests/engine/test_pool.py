"""Test how many replicas a run has, and on what. If these break, a run waits for hours for a GPU that
cannot come, or starts so many processes that the machine stands still."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from ace_tasks.engine.session import check_device
from ace_tasks.errors import SettingsError
from ace_tasks.runs.results import Summary
from ace_tasks.settings import cpu_count
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from flows.ui import summary as closing
from tests.support.grouped import grouped
from tests.support.pool_here import PoolHere

pytestmark = pytest.mark.usefixtures("replicas_here")


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Callable[..., bytes]) -> str:
    """One row."""
    store.put(join_uri(prefix, "in/a.png"), picture(), "image/png")
    row = {"id": "a", "task": "edit", "image": join_uri(prefix, "in/a.png"), "prompt": "p"}
    store.put(join_uri(prefix, "c.jsonl"), json.dumps(row | {"steps": 1}).encode(), "text/plain")
    return join_uri(prefix, "c.jsonl")


def run(catalog: str, prefix: str, **parameters: Any) -> Any:
    given = grouped(edit_catalog, **parameters)
    return edit_catalog(
        catalog=catalog, output=f"{prefix}/out", variant="toy", return_state=True, **given
    )


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's GPUs, if it has any, and know of no cluster."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("ACE_DEVICE", "cuda")


def test_without_a_gpu_and_a_cluster_a_run_says_so_before_it_plans(
    no_gpu: None, catalog: str, prefix: str, store: Store
) -> None:
    state = run(catalog, prefix)
    assert state.is_failed()
    assert "ACE_DEVICE: accepted: cpu" in state.message
    assert "given cuda" in state.message
    (uri,) = (each.uri for each in store.list(f"{prefix}/out/runs/"))
    assert uri.endswith("/ending.json")  # that it was refused; no plan


def test_a_dry_run_needs_no_gpu(no_gpu: None, catalog: str, prefix: str) -> None:
    state = run(catalog, prefix, dry_run=True)
    assert state.is_completed(), state.message


@pytest.mark.parametrize("device", ["cpu", None], ids=["cpu", "what is there"])
def test_what_needs_no_gpu_is_accepted(no_gpu: None, device: str | None) -> None:
    check_device(device, None)


def test_a_cluster_may_bring_a_gpu(no_gpu: None) -> None:
    check_device("cuda", "ray://head:10001")
    with pytest.raises(SettingsError, match="RAY_ADDRESS names no cluster"):
        check_device("cuda", None)


def test_this_machine_has_as_many_replicas_as_it_carries(
    catalog: str, prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    at_most: list[int | None] = []

    class Pool(PoolHere):
        def __init__(self, replica: Any, pool: Any, *arguments: Any, **more: Any):
            at_most.append(pool.max_replicas)
            super().__init__(replica, pool, *arguments, **more)

    monkeypatch.setattr("flows.steps.pool.Dispatcher", Pool)
    # Of memory there shall be enough: what is left to decide are cores.
    monkeypatch.setattr("flows.steps.pool.limit_bytes", lambda: 2**50)
    with caplog.at_level(logging.WARNING):
        state = run(catalog, prefix, replicas=100_000)
    assert at_most == [cpu_count()]
    (warning,) = [each for each in caplog.messages if each.startswith("replicas: ")]
    assert warning.startswith(f"replicas: using {cpu_count()}, not 100000: this machine has")
    summary = Summary.model_validate(state.result())
    assert (summary.done, summary.replicas, summary.replicas_asked) == (1, 1, 100_000)
    assert "at most 1 replica of 100000 asked for" in closing.text(summary, None, None)
    assert summary.replica_hours is not None

    # Room for one and a half: each takes a GiB.
    monkeypatch.setattr("flows.steps.pool.limit_bytes", lambda: 3 * 2**29)
    run(catalog, prefix, replicas=100_000, quality=80)
    assert at_most[1:] == [1]
    assert any("memory, 1.0 GiB each" in each for each in caplog.messages) or cpu_count() == 1


def test_a_cluster_may_have_all_that_are_asked_for(
    catalog: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")  # asked nothing: the pool is here
    state = run(catalog, prefix, replicas=100_000)
    assert Summary.model_validate(state.result()).replicas_asked is None
