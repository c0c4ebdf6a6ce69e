"""A Prefect server that dies or hangs in the middle of a run. If these break, a restart of the
server at night ends every run, or leaves them Running for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ace_tasks.store import Store, join_uri
from infra.prefect_server import PrefectServer, serve_deployments
from infra.services import Service
from tests.scenarios.test_interruptions import records, upload_catalog
from tests.support.patience import limit_s, wait_until
from tests.support.prefect_tables import with_tables

pytestmark = pytest.mark.thorough

STEPS = 120  # about half a second an item
# How long Prefect's client waits for an answer before it asks again. The default is a minute.
ANSWER_S = limit_s(10)


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask until the server has time: it answers 503 while SQLite is busy with its start."""

    def answer() -> httpx.Response | None:
        given = ask()
        return None if given.status_code == httpx.codes.SERVICE_UNAVAILABLE else given

    given = wait_until(answer, "an answer other than 503", every_s=1)
    assert given is not None
    return given


class Site:
    """A server whose database and address outlive it, a worker, and a run."""

    def __init__(self, folder: Path):
        self.server = PrefectServer(with_tables(folder / "prefect")).start()
        quick = {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_API_REQUEST_TIMEOUT": str(ANSWER_S),
        }
        self.worker: Service = serve_deployments(self.server.env | quick, folder / "worker.log")

    def ask(self, path: str, **body: Any) -> Any:
        url = f"{self.server.ui_url}/api/{path}"
        method = "POST" if body else "GET"
        answer = patiently(lambda: httpx.request(method, url, json=body or None, timeout=limit_s()))
        answer.raise_for_status()
        return answer.json()

    def start(self, catalog: str, output: str) -> str:
        found = self.ask("deployments/name/edit-catalog/edit-catalog")
        parameters = {"catalog": catalog, "output": output, "variant": "toy"}
        path = f"deployments/{found['id']}/create_flow_run"
        return str(self.ask(path, parameters=parameters)["id"])

    def wait_for_the_end(self, run: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            state: dict[str, Any] = self.ask(f"flow_runs/{run}")["state"]
            return None if state["type"] in {"SCHEDULED", "PENDING", "RUNNING"} else state

        state = wait_until(ended, "the end of the run", output=self.log_tail, every_s=1)
        assert state is not None
        return state

    def log_tail(self) -> str:
        return self.worker.log_tail(60)

    def stop(self) -> None:
        self.worker.stop(limit_s())
        self.server.stop()


@pytest.fixture
def site(tmp_path: Path, object_store: Any, weights_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.stop()


def kill(server: PrefectServer) -> None:
    """Send SIGKILL to all its processes."""
    assert server.service
    os.killpg(server.service.process.pid, signal.SIGKILL)
    server.service.process.wait()


@contextmanager
def dead(server: PrefectServer) -> Iterator[None]:
    """Refuse connections, until there is a new process over the same database."""
    kill(server)
    yield
    server.start()


@contextmanager
def hung(server: PrefectServer) -> Iterator[None]:
    """Take connections and answer nothing: clients meet their timeouts rather than a refusal."""
    assert server.service
    os.killpg(server.service.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.service.process.pid, signal.SIGCONT)


Trouble = Callable[[PrefectServer], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("trouble", "rows", "made_meanwhile"),
    [
        pytest.param(dead, 45, 10, id="dies-and-the-run-outlasts-it"),
        pytest.param(hung, 15, 15, id="hangs-and-the-run-ends-meanwhile"),
    ],
)
def test_the_run_ends_right_and_its_state_shows(
    site: Site,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
    trouble: Trouble,
    rows: int,
    made_meanwhile: int,
) -> None:
    output = join_uri(prefix, "out")
    run = site.start(upload_catalog(store, prefix, picture, rows, STEPS), output)

    def wait_for_records(count: int) -> None:
        """Replicas work while nobody listens."""
        made = f"{count} records"
        wait_until(lambda: len(records(store, output)) >= count, made, output=site.log_tail)

    wait_for_records(3)
    with trouble(site.server):
        wait_for_records(min(3 + made_meanwhile, rows))
        if trouble is hung:
            # Whatever the run says at its end gets no answer in time, and is said again.
            time.sleep(1.5 * ANSWER_S)
    state = site.wait_for_the_end(run)
    assert (state["name"], state["message"]) == (
        "Completed",
        f"{rows} done, 0 done before, of {rows} rows",
    ), site.log_tail()
    assert len(records(store, output)) == rows
    assert site.worker.process.poll() is None, "the worker takes the next run"
    if trouble is hung:
        again = site.start(join_uri(prefix, "catalog.jsonl"), output)
        ended = site.wait_for_the_end(again)
        assert ended["message"] == f"0 done, {rows} done before, of {rows} rows"


def test_a_slot_outlives_the_server(tmp_path: Path) -> None:
    """Prefect ends a run whose slot cannot be renewed, so a restart would end all guarded runs."""
    server = PrefectServer(with_tables(tmp_path / "prefect")).start()
    lasting = {"lease_duration": limit_s(600)}
    try:
        with httpx.Client(base_url=f"{server.ui_url}/api", timeout=limit_s()) as api:

            def post(path: str, body: dict[str, Any]) -> httpx.Response:
                return patiently(lambda: api.post(f"v2/concurrency_limits/{path}", json=body))

            post("", {"name": "one", "limit": 1}).raise_for_status()
            asked = {"names": ["one"], "slots": 1, "mode": "concurrency"} | lasting
            held = post("increment-with-lease", asked)
            held.raise_for_status()
            kill(server)
            server.start()
            renewed = post(f"leases/{held.json()['lease_id']}/renew", lasting)
            assert renewed.status_code == httpx.codes.NO_CONTENT
            assert post("increment-with-lease", asked).status_code == httpx.codes.LOCKED
    finally:
        server.stop()
