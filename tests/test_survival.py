"""A Prefect server that dies or hangs in the middle of a run. If these break, a restart of the
server at night ends every run, or leaves them Running for ever."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ace_tasks.store import Store, join_uri
from infra.prefect_server import PrefectServer, serve_deployments
from infra.services import Service
from tests.test_interruptions import records, upload_catalog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AWAY_S = 60
STEPS = 200  # about a second an item


class Site:
    """A server whose database and address outlive it, a worker, and a run."""

    def __init__(self, folder: Path):
        self.server = PrefectServer(folder / "prefect").start()
        self.worker: Service = serve_deployments(self.server.env, folder / "worker.log")

    def ask(self, path: str, **body: Any) -> Any:
        url = f"{self.server.ui_url}/api/{path}"
        answer = httpx.post(url, json=body, timeout=60) if body else httpx.get(url, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def start(self, catalog: str, output: str) -> str:
        found = self.ask("deployments/name/edit-catalog/edit-catalog")
        parameters = {"catalog": catalog, "output": output, "variant": "toy"}
        path = f"deployments/{found['id']}/create_flow_run"
        return str(self.ask(path, parameters=parameters)["id"])

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"flow_runs/{run}")["state"]
        return found

    def wait_for_the_end(self, run: str) -> dict[str, Any]:
        deadline = time.monotonic() + 420
        while (state := self.state(run))["type"] in {"SCHEDULED", "PENDING", "RUNNING"}:
            assert time.monotonic() < deadline, self.worker.log_tail(60)
            time.sleep(1)
        return state

    def stop(self) -> None:
        self.worker.stop(timeout_s=30)
        self.server.stop()


@pytest.fixture
def site(tmp_path: Path, object_store: Any, weights_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.stop()


def kill(server: PrefectServer) -> None:
    """kill -9, of all its processes."""
    assert server.service
    os.killpg(server.service.process.pid, signal.SIGKILL)
    server.service.process.wait()


def die(server: PrefectServer) -> None:
    """A minute of nothing, and a new process over the same database."""
    kill(server)
    time.sleep(AWAY_S)
    server.start()


def hang(server: PrefectServer) -> None:
    """It takes connections and answers nothing: the client's timeouts, not a refusal."""
    assert server.service
    os.killpg(server.service.process.pid, signal.SIGSTOP)
    time.sleep(AWAY_S)
    os.killpg(server.service.process.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("trouble", "rows"),
    [
        pytest.param(die, 20, id="dies-and-the-run-ends-meanwhile", marks=pytest.mark.long),
        pytest.param(die, 90, id="dies-and-the-run-outlasts-it"),
        pytest.param(hang, 20, id="hangs-and-the-run-ends-meanwhile"),
    ],
)
def test_the_run_ends_right_and_its_state_shows(
    site: Site,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
    trouble: Callable[[PrefectServer], None],
    rows: int,
) -> None:
    output = join_uri(prefix, "out")
    run = site.start(upload_catalog(store, prefix, picture, rows, STEPS), output)
    deadline = time.monotonic() + 200
    while len(records(store, output)) < 3:
        assert time.monotonic() < deadline, site.worker.log_tail(60)
        time.sleep(0.5)
    began = len(records(store, output))
    trouble(site.server)
    meanwhile = len(records(store, output))
    assert meanwhile > began, "replicas work while nobody listens"
    state = site.wait_for_the_end(run)
    assert (state["name"], state["message"]) == (
        "Completed", f"{rows} done, 0 done before, of {rows} rows",
    ), site.worker.log_tail(60)  # fmt: skip
    assert len(records(store, output)) == rows
    assert site.worker.process.poll() is None, "the worker takes the next run"
    again = site.start(join_uri(prefix, "catalog.jsonl"), output)
    assert site.wait_for_the_end(again)["message"] == f"0 done, {rows} done before, of {rows} rows"
    progress = {"artifacts": {"key": {"any_": ["edit-catalog-progress"]}}}
    of_run = [each for each in site.ask("artifacts/filter", **progress)
              if each["flow_run_id"] == run]  # fmt: skip
    print(trouble.__name__, rows, began, meanwhile, json.dumps(of_run)[:300])


def patiently(api: httpx.Client, path: str, content: dict[str, Any]) -> httpx.Response:
    """A server that has just started answers 503 while SQLite is busy with its start."""
    deadline = time.monotonic() + 60
    while (answer := api.post(path, json=content)).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(1)
    return answer


def test_a_slot_outlives_the_server(tmp_path: Path) -> None:
    """Prefect ends a run whose slot cannot be renewed, so a restart would end all guarded runs."""
    server = PrefectServer(tmp_path / "prefect").start()
    try:
        with httpx.Client(base_url=f"{server.ui_url}/api", timeout=60) as api:
            api.post("v2/concurrency_limits/", json={"name": "one", "limit": 1}).raise_for_status()
            asked = {"names": ["one"], "slots": 1, "mode": "concurrency", "lease_duration": 300}
            path = "v2/concurrency_limits/increment-with-lease"
            held = patiently(api, path, asked)
            held.raise_for_status()
            kill(server)
            server.start()
            lease = held.json()["lease_id"]
            renew = f"v2/concurrency_limits/leases/{lease}/renew"
            assert patiently(api, renew, {"lease_duration": 300}).status_code == 204
            assert patiently(api, path, asked).status_code == 423
    finally:
        server.stop()
