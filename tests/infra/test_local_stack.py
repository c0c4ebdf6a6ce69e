"""The local stack as `make up` runs it, and a deployment as the UI starts it. If these break, a
newcomer's first run does not start, or services are left behind on the machine.

A local stack takes ports that people remember if they are free. Tests of it stay in this file, so
that no two of them look for these ports at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from unittest.mock import patch
from urllib.request import urlopen

import psutil
import pytest

import infra.transfer
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra import services
from infra.demo import mirror, upload_sample
from infra.local_stack import LocalStack
from infra.object_store import ObjectStore
from infra.sample.make import BUCKET, PREFIX, ROWS
from infra.services import Service, free_ports, preferred_port
from tests.support.patience import limit_s
from tests.support.processes import run


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


@pytest.mark.thorough
def test_a_deployed_flow_runs_and_everything_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with LocalStack(tmp_path / "stack") as stack:
        for name, value in stack.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        store = Store(StoreSettings())
        upload_sample(store)
        stack.serve_deployments()
        output = f"s3://{BUCKET}/edited"
        given = (f"catalog={PREFIX}/catalog.csv", f"output={output}", "variant=toy")
        asked = [f"--param={each}" for each in given]
        name = "edit-catalog/edit-catalog"
        services.run(["prefect", "deployment", "run", name, "--watch", *asked], stack.env)
        # A restyle may be scheduled at once, is not by itself, and never meets another one.
        name = "restyle-catalog/restyle-catalog"
        with urlopen(f"{stack.env['PREFECT_API_URL']}/deployments/name/{name}") as answer:
            restyle = json.load(answer)
        assert restyle["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert restyle["global_concurrency_limit"]["limit"] == 1
        (nightly,) = restyle["schedules"]
        assert (nightly["active"], nightly["schedule"]["cron"]) == (False, "0 3 * * *")
        form = restyle["parameter_openapi_schema"]
        assert set(form["required"]) <= nightly["parameters"].keys() <= form["properties"].keys()
        report = mirror(store, output, tmp_path / "mirror")
        assert report is not None
        assert report.read_text().count("<article") == len(ROWS)
        children = set(psutil.Process().children(recursive=True))
        with LocalStack(tmp_path / "stack") as attached:  # a second one joins the first
            assert not attached.owned
            assert attached.env == stack.env
    _, alive = psutil.wait_procs(children - before, timeout=limit_s())
    assert alive == []


LIST = """
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
print(*(each.uri for each in Store(StoreSettings()).list("s3://mine/")))
"""


@pytest.mark.thorough
def test_up_prints_the_address_and_stops_on_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m infra.up` has a folder of its own, so that a stack in use here is left alone."""
    monkeypatch.setattr(infra.transfer, "ROOT", tmp_path)

    def transfer(start: object, end: object, accept: int = 0) -> str:
        """Run `python -m infra.transfer` here; return its complaint."""
        monkeypatch.setattr(sys, "argv", ["transfer", str(start), str(end)])
        with patch.dict(os.environ):  # it takes the stack's
            assert infra.transfer.main() == accept
        return capsys.readouterr().err

    code = (
        "import infra.up, pathlib; "
        f"infra.up.ROOT = pathlib.Path({str(tmp_path)!r}); raise SystemExit(infra.up.main())"
    )
    up = Service.start("make up", [sys.executable, "-c", code], os.environ, tmp_path / "up.log")
    try:
        up.wait_until(lambda: "Ctrl-C" in up.log.read_text())
        assert "Prefect UI     http://127.0.0.1:" in up.log.read_text()
        assert (tmp_path / ".local" / "env").stat().st_mode & 0o077 == 0
        pictures = tmp_path / "pictures" / "red"
        pictures.mkdir(parents=True)
        (pictures / "mug.png").write_bytes(b"mug")
        back = tmp_path / "back"
        transfer(pictures.parent, "s3://mine/pictures/")
        transfer("s3://mine/pictures", back)
        assert (back / "red" / "mug.png").read_bytes() == b"mug"
        in_a_shell = f"source {tmp_path}/.local/env && {sys.executable} -c '{LIST}'"
        assert run(["bash", "-c", in_a_shell]).stdout == "s3://mine/pictures/red/mug.png\n"
        for start, end, message in (
            ("s3://mine/nowhere", back, "there is nothing under s3://mine/nowhere"),
            (tmp_path / "no", "s3://mine/x", f"there is no {tmp_path / 'no'}"),
            (pictures, back, "accepted: FROM a folder TO s3://"),
            ("s3://mine/pictures", "", "accepted: FROM a folder TO s3://"),
            ("", "s3://mine/x", "accepted: FROM a folder TO s3://"),
        ):
            assert message in transfer(start, end, accept=1)
        children = psutil.Process(up.process.pid).children(recursive=True)
        assert len(children) >= 3  # store, server, worker
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(limit_s()) == 0, up.log_tail()
        _, alive = psutil.wait_procs(children, timeout=limit_s())
        assert alive == []
        assert not (tmp_path / ".local" / "env").exists()
        assert "start it with `make up`" in transfer(pictures, "s3://mine/x", accept=1)
    finally:
        up.kill()
