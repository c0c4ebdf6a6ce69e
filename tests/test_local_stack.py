"""The local stack as `make up` runs it, and a deployment as the UI starts it. If these break, a
newcomer's first run does not start, a run goes on that was cancelled in the UI, or services are
left behind on the machine.

A local stack takes ports that people remember if they are free. Tests of it stay in this file, so
that no two of them look for these ports at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra.demo import mirror, upload_sample
from infra.local_stack import LocalStack
from infra.object_store import ObjectStore
from infra.sample.make import BUCKET, PREFIX, ROWS
from infra.services import ROOT, free_ports, preferred_port
from tests.test_interruptions import ROWS as LONG
from tests.test_interruptions import STEPS, records, upload_catalog


def test_free_ports_are_distinct_and_a_taken_one_is_passed_over() -> None:
    import socket

    assert len(set(free_ports(20))) == 20
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert preferred_port(taken.getsockname()[1]) != taken.getsockname()[1]


def test_the_store_keeps_its_data_over_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = ObjectStore(tmp_path / "store").start()
    for name, value in service.env.items():
        monkeypatch.setenv(name, value)
    try:
        Store(StoreSettings()).create_bucket("kept")
        Store(StoreSettings()).put("s3://kept/a", b"1", "text/plain")
        service.kill()
        service.start()
        assert Store(StoreSettings()).get("s3://kept/a") == b"1"
    finally:
        service.kill()


@pytest.mark.slow
def test_a_deployed_flow_runs_and_everything_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with LocalStack(tmp_path / "stack") as stack:
        for name, value in stack.env.items():
            monkeypatch.setenv(name, value)
        store = Store(StoreSettings())
        upload_sample(store)
        stack.serve_deployments()
        output = f"s3://{BUCKET}/edited"
        stack.run(
            "prefect", "deployment", "run", "edit-catalog/edit-catalog", "--watch",
            "-p", f"catalog={PREFIX}/catalog.csv", "-p", f"output={output}", "-p", "variant=toy",
        )  # fmt: skip
        # A restyle may be scheduled at once, is not by itself, and never meets another one.
        name = "restyle-catalog/restyle-catalog"
        with urlopen(f"{stack.env['PREFECT_API_URL']}/deployments/name/{name}") as answer:
            restyle = json.load(answer)
        assert restyle["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert restyle["global_concurrency_limit"]["limit"] == 1
        (nightly,) = restyle["schedules"]
        assert (nightly["active"], nightly["schedule"]["cron"]) == (False, "0 3 * * *")
        required = restyle["parameter_openapi_schema"]["required"]
        assert nightly["parameters"].keys() == set(required)
        report = mirror(store, output, tmp_path / "mirror")
        assert report is not None
        assert report.read_text().count("<article") == len(ROWS)
        children = set(psutil.Process().children(recursive=True))
        with LocalStack(tmp_path / "stack") as attached:  # a second one joins the first
            assert not attached.owned
            assert attached.env == stack.env
    _, alive = psutil.wait_procs(children - before, timeout=20)
    assert alive == []


@pytest.mark.long  # test_ui_approval cancels by a click, test_interruptions counts the processes
@pytest.mark.timeout(600)
def test_cancel_in_the_ui_stops_the_run(
    tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalStack(tmp_path / "stack") as stack:
        for name, value in stack.env.items():
            monkeypatch.setenv(name, value)
        store = Store(StoreSettings())
        store.create_bucket("tests")
        catalog = upload_catalog(store, "s3://tests/ui", picture, LONG, STEPS)
        output = "s3://tests/ui/out"
        worker = stack.serve_deployments()
        stack.run(
            "prefect", "deployment", "run", "edit-catalog/edit-catalog",
            "-p", f"catalog={catalog}", "-p", f"output={output}", "-p", "variant=toy",
        )  # fmt: skip
        deadline = time.monotonic() + 200
        while not records(store, output):
            assert time.monotonic() < deadline, worker.log_tail(40)
            time.sleep(0.5)
        family = psutil.Process(worker.process.pid).children(recursive=True)
        assert any("ray" in each.name() for each in family)
        listed = stack.run("prefect", "flow-run", "ls", "--state", "Running", "-o", "json")
        (run,) = json.loads(listed)
        stack.run("prefect", "flow-run", "cancel", run["id"])
        asked = time.monotonic()
        _, alive = psutil.wait_procs(family, timeout=60)
        print(f"gone {time.monotonic() - asked:.1f} s after the request")
        assert [each.cmdline() for each in alive] == []
        finished = len(records(store, output))
        assert finished < LONG
        stack.run(
            "prefect", "deployment", "run", "edit-catalog/edit-catalog", "--watch",
            "-p", f"catalog={catalog}", "-p", f"output={output}", "-p", "variant=toy",
        )  # fmt: skip
        assert len(records(store, output)) == LONG


LIST = """
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
print(*(each.uri for each in Store(StoreSettings()).list("s3://mine/")))
"""


@pytest.mark.slow
def test_up_prints_the_address_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    """`python -m infra.up` in a copy of its own, so that a stack in use here is left alone."""
    code = (
        "import infra.up, pathlib; "
        f"infra.up.ROOT = pathlib.Path({str(tmp_path)!r}); raise SystemExit(infra.up.main())"
    )
    up = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    assert up.stdout
    try:
        lines = []
        for line in up.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        assert "Prefect UI     http://127.0.0.1:" in "".join(lines)
        assert (tmp_path / ".local" / "env").stat().st_mode & 0o077 == 0
        pictures = tmp_path / "pictures" / "red"
        pictures.mkdir(parents=True)
        (pictures / "mug.png").write_bytes(b"mug")
        copy = "import infra.transfer, pathlib; " + code.partition("; ")[2].replace(
            "infra.up", "infra.transfer"
        )
        back = tmp_path / "back"
        for command in (
            [sys.executable, "-c", copy, str(pictures.parent), "s3://mine/pictures/"],
            [sys.executable, "-c", copy, "s3://mine/pictures", str(back)],
            ["bash", "-c", f"source {tmp_path}/.local/env && {sys.executable} -c '{LIST}'"],
        ):
            told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
            assert told.returncode == 0, told.stderr
        assert told.stdout == "s3://mine/pictures/red/mug.png\n"
        assert (back / "red" / "mug.png").read_bytes() == b"mug"
        for start, end, told_of in (
            ("s3://mine/nowhere", str(back), "there is nothing under s3://mine/nowhere"),
            (str(tmp_path / "no"), "s3://mine/x", f"there is no {tmp_path / 'no'}"),
            (str(pictures), str(back), "accepted: FROM a folder TO s3://"),
            ("s3://mine/pictures", "", "accepted: FROM a folder TO s3://"),
            ("", "s3://mine/x", "accepted: FROM a folder TO s3://"),
        ):
            told = subprocess.run(
                [sys.executable, "-c", copy, start, end],
                cwd=ROOT, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert (told.returncode, told_of in told.stderr) == (1, True), told.stderr
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) >= 3  # store, server, worker
        started = time.monotonic()
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
        assert time.monotonic() - started < 60
        _, alive = psutil.wait_procs(children, timeout=20)
        assert alive == []
        assert not (tmp_path / ".local" / "env").exists()
        late = subprocess.run(
            [sys.executable, "-c", copy, str(pictures), "s3://mine/x"],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert late.returncode == 1
        assert "start it by `make up`" in late.stderr
    finally:
        up.kill()
