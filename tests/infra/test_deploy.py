"""What `infra.deploy` sets up on a Prefect server, and automations that fire for real. If these
break, a run whose process was killed stays Running for ever, nobody hears that a night's run
fails, or two runs fight over the same GPUs."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import queue
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.base import BaseJobConfiguration

from ace_tasks.engine.dispatcher import Status
from ace_tasks.store import Store
from flows.steps.open_run import RunRequest, open_run
from flows.sweep_output import sweep_output
from flows.ui.events import FailureAlarm
from infra import automations, pools
from infra.prefect_server import PrefectServer, start_worker
from infra.services import HOST, ROOT, Service
from tests.runs.test_sweeping import leave
from tests.support.patience import limit_s, wait_until
from tests.support.prefect_tables import with_tables
from tests.support.processes import run_python

RECEIVED: queue.SimpleQueue[str] = queue.SimpleQueue()


class Ear(BaseHTTPRequestHandler):
    """Somebody who is to be told."""

    def do_POST(self) -> None:
        RECEIVED.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Start one whose automations and limits concern no runs of other tests."""
    service = PrefectServer(with_tables(tmp_path_factory.mktemp("ops")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS", "2")  # an hour by default
        service.start()
    atexit.register(service.stop)  # Prefect sends its last logs at exit
    with temporary_settings({PREFECT_API_URL: service.env["PREFECT_API_URL"]}):
        yield service


@pytest.fixture(scope="module")
def webhook(server: PrefectServer) -> Iterator[None]:
    ear = HTTPServer((HOST, 0), Ear)
    threading.Thread(target=ear.serve_forever, daemon=True).start()
    Webhook(url=f"http://{HOST}:{ear.server_port}/secret-path").save("ops")  # type: ignore[arg-type]
    yield
    ear.shutdown()


def deploy(server: PrefectServer, *arguments: str) -> str:
    return run_python("-m", "infra.deploy", *arguments, env=server.env).stdout


@pytest.fixture(scope="module")
def deployed(server: PrefectServer, webhook: None) -> str:
    return deploy(server, "--notify", "webhook/ops")


def ask(server: PrefectServer, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{server.ui_url}/api/{path}", json=body, timeout=limit_s())
    assert answer.status_code < 300, answer.text
    return answer.json()


def setup_of(server: PrefectServer) -> dict[str, Any]:
    """Read all that is there, by name, without ids and times."""
    queues = ask(server, "work_pools/local/queues/filter")
    return {
        "automations": {each["name"] for each in ask(server, "automations/filter")},
        "count": len(ask(server, "automations/filter")),
        "deployments": {
            each["name"]: each["work_queue_name"] for each in ask(server, "deployments/filter")
        },
        "pools": {each["name"]: each["type"] for each in ask(server, "work_pools/filter")},
        "queues": {each["name"]: each["concurrency_limit"] for each in queues},
        "limits": {
            each["name"]: each["global_concurrency_limit"]
            and each["global_concurrency_limit"]["limit"]
            for each in ask(server, "deployments/filter")
        },
    }


@pytest.mark.thorough
def test_a_second_time_changes_only_what_is_asked_for(server: PrefectServer, deployed: str) -> None:
    first = setup_of(server)
    assert first["automations"] == {
        automations.ZOMBIE,
        automations.STRANDED,
        automations.FAILING,
        automations.CANCELLED,
    }
    assert first["queues"]["gpu"] == 1
    names = set(re.findall(r"- name: (\S+)", (ROOT / "prefect.yaml").read_text()))
    assert first["deployments"].keys() == names
    on_gpus = {name for name, its_queue in first["deployments"].items() if its_queue == "gpu"}
    assert on_gpus == names - {"review-run", "write-feed", "sweep-output", "audit-run", "forget"}
    guarded = {name for name, limit in first["limits"].items() if limit == 1}
    assert guarded == {"compare", "edit-catalog", "restyle-catalog", "try-on-batch"}
    assert "secret-path" not in json.dumps(ask(server, "automations/filter"))  # by reference

    deploy(server, "--notify", "webhook/ops", "--gpu-runs", "3")
    second = setup_of(server)
    assert second["queues"].pop("gpu") == 3
    assert first["queues"].pop("gpu") == 1
    assert second == first


def test_a_block_that_is_not_there_is_reported(prefect_server: PrefectServer) -> None:
    command = ("-m", "infra.deploy", "--notify", "webhook/nobody")
    ended = run_python(*command, env=prefect_server.env, accept=[1])
    assert "no block 'webhook/nobody'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("kind", ["process", "kubernetes"])
def test_a_job_is_made_of_the_template(prefect_server: PrefectServer, kind: pools.Kind) -> None:
    async def make() -> dict[str, Any]:
        async with get_client() as client:
            name = f"of-{kind}"
            await pools.put(client, name, kind, gpu_runs=2)
            await pools.put(client, name, kind, gpu_runs=2)
            return (await client.read_work_pool(name)).base_job_template

    template = asyncio.run(make())
    given = {"command": "python -m prefect.engine", "name": "run"}
    configuration = asyncio.run(BaseJobConfiguration.from_template_and_values(template, given))
    assert configuration.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    # 2 + 4 + … + 128 s; with Prefect's default of 5, a server that is away for longer than a
    # minute ends the run.
    assert configuration.env["PREFECT_CLIENT_MAX_RETRIES"] == "7"
    moved = configuration.env.get("PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR")
    assert moved == ("reschedule" if kind == "kubernetes" else None)
    if kind == "kubernetes":
        pod = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == 60
        (container,) = pod["containers"]
        assert container["envFrom"][0]["secretRef"]["name"] == "ace-catalog"
        placeholders = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template)))
        assert set(template["variables"]["properties"]) <= placeholders
        assert template["variables"]["properties"]["image"]["default"] == "ace-catalog"


# ---------------------------------------------------------------- automations that fire


def state_of(server: PrefectServer, run_id: str) -> dict[str, Any]:
    answer = httpx.get(f"{server.ui_url}/api/flow_runs/{run_id}", timeout=limit_s())
    state: dict[str, Any] = answer.json()["state"]
    return state


@pytest.mark.thorough
def test_a_killed_run_is_crashed_and_one_that_ended_is_left_alone(
    server: PrefectServer, deployed: str, tmp_path: Path
) -> None:
    """A killed process says nothing; a run that ended as FinishedWithFailures has said all."""

    async def hurry() -> None:  # the real one waits for five minutes
        async with get_client() as client:
            await automations.put(client, automations.zombie(timedelta(seconds=limit_s(20))))

    asyncio.run(hurry())
    code = (
        "import sys, time\n"
        "from prefect import flow, tags\n"
        "from prefect.context import get_run_context\n"
        "from prefect.states import Failed\n"
        "@flow\n"
        "def works(seconds):\n"
        "    print('run', get_run_context().flow_run.id, flush=True)\n"
        "    time.sleep(seconds)\n"
        "    return Failed(name='FinishedWithFailures')\n"
        "with tags('ace-catalog'): works(float(sys.argv[1]), return_state=True)\n"
    )

    def start(name: str, seconds: float) -> tuple[Service, str]:
        """Start a run and wait for its first heartbeat; the next would come 30 s later."""
        env = os.environ | server.env | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        command = [sys.executable, "-c", code, str(seconds)]
        process = Service.start(name, command, env, tmp_path / f"{name}.log")
        started = wait_until(
            lambda: re.search(r"^run (\S+)$", process.log.read_text(), re.MULTILINE),
            "the start of a run",
            output=process.log_tail,
        )
        assert started
        beat = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        wait_until(
            lambda: started[1] in json.dumps(ask(server, "events/filter", **beat)),
            "a heartbeat",
            output=process.log_tail,
        )
        return process, started[1]

    first, ended = start("ended", 1)
    assert first.process.wait(limit_s()) == 0, first.log_tail()
    second, killed = start("killed", limit_s())
    second.kill()
    wait_until(
        lambda: state_of(server, killed)["type"] == "CRASHED",
        "the killed run to be crashed",
        output=lambda: str(state_of(server, killed)),
    )
    assert "No heartbeat" in state_of(server, killed)["message"]
    # Its turn would have come before the other's, whose heartbeat was later.
    assert state_of(server, ended)["name"] == "FinishedWithFailures"


@pytest.mark.thorough
def test_a_run_that_stays_pending_frees_its_place_and_a_late_heartbeat_harms_none(
    server: PrefectServer, deployed: str
) -> None:
    """Both are told by the same automations, at the shortest silence that Prefect takes."""

    async def hurry() -> None:  # the real ones wait for minutes
        async with get_client() as client:
            for make in (automations.zombie, automations.stranded):
                await automations.put(client, make(timedelta(seconds=10)))

    def start(name: str, **parameters: str) -> str:
        found = httpx.get(f"{server.ui_url}/api/deployments/name/{name}/{name}").json()
        path = f"deployments/{found['id']}/create_flow_run"
        run = ask(server, path, parameters=parameters, tags=[automations.TAG])
        return str(run["id"])

    def propose(run_id: str, kind: str) -> str:
        """Ask for a state as a worker does; return the name of that which the run has then."""
        answer = ask(server, f"flow_runs/{run_id}/set_state", state={"type": kind})
        return str(answer["state"]["name"] if answer["state"] else answer["status"])

    asyncio.run(hurry())
    edit = {"catalog": "c.jsonl", "output": "s3://bucket/out", "variant": "toy"}
    stranded, waiting = start("edit-catalog", **edit), start("edit-catalog", **edit)
    done = start("sweep-output", output="s3://bucket/out")
    assert propose(stranded, "PENDING") == "Pending"  # and its worker dies
    assert propose(waiting, "PENDING") == "AwaitingConcurrencySlot"
    for kind in ("PENDING", "RUNNING", "COMPLETED"):
        propose(done, kind)
    tell_heartbeat(server, done)
    wait_until(lambda: state_of(server, stranded)["type"] == "CRASHED", "the stranded run's end")
    assert "its worker is gone" in state_of(server, stranded)["message"]
    assert propose(waiting, "PENDING") == "Pending"
    refused = {"filter": {"event": {"name": ["prefect.automation.action.failed"]}}}
    wait_until(
        lambda: done in json.dumps(ask(server, "events/filter", **refused)),
        "the automation's try on the completed run",
    )
    assert state_of(server, done)["name"] == "Completed"


def tell_heartbeat(server: PrefectServer, run_id: str) -> None:
    """Send a run's heartbeat, as one that was late on its way."""
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
        "related": [
            {
                "prefect.resource.id": f"prefect.tag.{automations.TAG}",
                "prefect.resource.role": "tag",
            }
        ],
    }
    answer = httpx.post(f"{server.ui_url}/api/events", json=[event], timeout=limit_s())
    assert answer.status_code == 204, answer.text


@pytest.mark.thorough
def test_old_runs_are_forgotten_and_younger_ones_are_kept(
    server: PrefectServer, deployed: str
) -> None:
    """The server's own database is told that one of them ended long ago."""

    @flow(name="ends")
    def ends() -> None:
        pass

    with temporary_settings({PREFECT_API_URL: server.env["PREFECT_API_URL"]}):
        ids = [str(ends(return_state=True).state_details.flow_run_id) for _ in range(2)]
    with closing(sqlite3.connect(server.data_dir / "prefect.db", timeout=limit_s())) as database:
        ended = "2026-01-01 00:00:00.000000"
        changed = database.execute(
            "UPDATE flow_run SET end_time = ? WHERE id = ?", (ended, str(UUID(ids[0])))
        )
        assert changed.rowcount == 1
        database.commit()

    def is_there(run_id: str) -> bool:
        return httpx.get(f"{server.ui_url}/api/flow_runs/{run_id}").status_code == 200

    wait_until(lambda: not is_there(ids[0]), "the old run to be forgotten")
    assert is_there(ids[1])


@pytest.mark.thorough
def test_a_run_whose_worker_is_stopped_is_taken_up_by_the_next(
    server: PrefectServer, deployed: str, tmp_path: Path
) -> None:
    """It waits in its first process for a file that is not there, and ends in its second."""
    entrypoint = "tests/support/waiting_flow.py:waits"
    code = (
        "import sys\n"
        "from prefect import flow\n"
        "made = flow.from_source(sys.argv[1], sys.argv[2])\n"
        "made.deploy('waits', work_pool_name='local', print_next_steps=False)\n"
    )
    run_python("-c", code, str(ROOT), entrypoint, env=server.env)
    found = httpx.get(f"{server.ui_url}/api/deployments/name/waits/waits").json()
    started = tmp_path / "started"
    run = ask(
        server, f"deployments/{found['id']}/create_flow_run", parameters={"folder": str(tmp_path)}
    )

    env = server.env | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    first = start_worker(env, tmp_path / "first.log")
    wait_until(started.exists, "the run's start", output=first.log_tail)
    first.process.terminate()
    first.process.wait(limit_s())
    handed = state_of(server, run["id"])
    assert (handed["type"], handed["name"]) == ("SCHEDULED", "AwaitingRetry")
    (tmp_path / "go").touch()
    second = start_worker(env, tmp_path / "second.log")
    try:
        wait_until(
            lambda: state_of(server, run["id"])["type"] == "COMPLETED",
            "the run's end",
            output=second.log_tail,
        )
    finally:
        second.stop(limit_s())
    assert started.read_text() == "started\nstarted\n"


@pytest.mark.thorough
def test_a_run_that_fails_too_much_is_reported_and_a_cancelled_one_is_swept(
    server: PrefectServer, deployed: str, store: Store, prefix: str, weights_dir: Path
) -> None:
    output = f"{prefix}/out"
    ids: list[str] = []
    assert server.service
    log_tail = server.service.log_tail

    @flow(name="fails")
    def fails(output: str) -> None:
        with open_run(RunRequest(f"{prefix}/c.jsonl", output, "toy")) as run:
            ids.append(run.run_id)
            run.events.pool_started()
            alarm = FailureAlarm(run.events, run.environment.alert_failure_share)
            for done, failed in ((10, 9), (16, 4), (30, 10), (30, 20)):
                alarm.look(Status(done=done, failed=failed))
        wait_until(lambda: not RECEIVED.empty(), "the alarm", output=log_tail)
        state = {"type": "CANCELLED", "name": "Cancelled"}
        ask(server, f"flow_runs/{ids[0]}/set_state", state=state, force=True)

    while not RECEIVED.empty():
        RECEIVED.get()
    # A process has one that tells events, and it keeps to the server of whoever came first.
    EventsWorker.drain_all(timeout=limit_s())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fails(output, return_state=True)
    message = RECEIVED.get(timeout=limit_s())
    assert "10 of 40 items" in message
    assert output in message
    assert f"/flow-run/{ids[0]}" in message

    name = {"deployments": {"name": {"any_": ["sweep-output"]}}}

    def ours() -> list[Any]:
        found = ask(server, "flow_runs/filter", **name)
        return [each for each in found if each["parameters"]["output"] == output]

    (run,) = wait_until(ours, "a scheduled sweep", output=log_tail)
    # The server takes events in their order, and the run was cancelled after its last look.
    assert RECEIVED.empty(), "once a run"
    assert run["parameters"] == {
        "output": output,
        "older_than_hours": 1,
        "run": ids[0],
        "delete": True,
    }
    due = datetime.fromisoformat(run["expected_start_time"]) - datetime.now(UTC)
    assert timedelta(minutes=100) < due <= timedelta(hours=2)


def test_a_sweep_lists_what_no_record_names_and_deletes_it_only_when_asked(
    prefect_server: PrefectServer, store: Store, prefix: str
) -> None:
    output = f"{prefix}/out"
    store.put(f"{output}/runs/run-1/plan.parquet", b"a plan", "text/plain")
    orphan = leave(store, output, b"left over")
    for parameters, message in (
        ({}, "0 pictures without a record, 0 deleted"),  # too young
        ({"older_than_hours": 0}, "1 picture without a record, 0 deleted; switch on `delete`"),
        ({"older_than_hours": 0, "delete": True}, "1 picture without a record, 1 deleted"),
    ):
        assert store.get(orphan) == b"left over"
        state = sweep_output(output=output, return_state=True, **parameters)
        assert state.message.startswith(message)
    assert [each.uri for each in store.list(output)] == [f"{output}/runs/run-1/plan.parquet"]
