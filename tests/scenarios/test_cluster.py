"""More than one machine, as far as one machine can show it: real Ray nodes behind a token. If these
break, machines that came stand idle, those that went took rows with them, or anybody may join."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.store import Store
from infra.object_store import ObjectStore
from infra.prefect_server import PrefectServer
from infra.services import ROOT, Service, free_ports, run, script
from tests.scenarios.test_interruptions import upload_catalog
from tests.support.patience import limit_s
from tests.support.processes import run_python

pytestmark = pytest.mark.thorough

# ---------------------------------------------------------------- nodes come and go


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return report_of("tests.support.nodes")


def report_of(module: str) -> dict[str, Any]:
    """Run it; its last line is JSON."""
    report: dict[str, Any] = json.loads(run_python("-m", module).stdout.splitlines()[-1])
    print(report)
    return report


def test_without_the_token_nobody_joins_or_asks(seen: dict[str, Any]) -> None:
    """With no token and with another one; as a driver, and by Ray's command."""
    assert seen["outsiders"] == "refused refused refused refused"


def test_each_gpu_has_one_replica_and_a_node_without_has_none(seen: dict[str, Any]) -> None:
    assert seen["places"] == [1, 2]
    assert seen["nodes_that_worked"] == ["late", "spot", "two-gpus"]


def test_a_node_that_comes_in_mid_run_is_put_to_work(seen: dict[str, Any]) -> None:
    """`tests.support.nodes` goes on only once its replica is ready, beside the three others."""
    assert "late" in seen["nodes_that_worked"]


def test_a_drained_node_that_is_taken_away_takes_no_row_with_it(seen: dict[str, Any]) -> None:
    assert seen["deaths"] == 1
    assert seen["done"] == seen["distinct"] == seen["given"] > 0


def test_weights_come_to_a_node_once(seen: dict[str, Any]) -> None:
    """On one of them two replicas start side by side."""
    assert seen["weights_made"] == {"late": 1, "spot": 1, "two-gpus": 1}


# ---------------------------------------------------------------- the head goes


def test_a_head_that_is_lost_comes_back_and_the_run_goes_on() -> None:
    """What it knew is in a Redis, as `infra/kubernetes/lasting-head` has it."""
    alone = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"]).returncode == 0
    if not alone:
        pytest.skip("needs the right to make a namespace of processes (unshare)")
    if not shutil.which("redis-server"):
        if os.environ.get("CI") == "true":
            pytest.fail("needs redis-server (make redis)")
        pytest.skip("needs redis-server (make redis)")
    report = report_of("tests.support.lost_head")
    assert report["done"] == report["outcomes"] == report["given"]
    assert (report["deaths"], report["replicas"]) == (0, [2, 2, 2]), "the same replicas go on"
    assert report["left"] == 0, "and end with their run"


# ---------------------------------------------------------------- the shape of the manifests


@pytest.fixture(scope="module")
def ray_head() -> Iterator[dict[str, str]]:
    """Start a head as the manifests do, and a node with a CPU; return what those who join need."""
    folder = Path(tempfile.mkdtemp(prefix="ace-ray-"))  # sockets have short names only
    port, client, agent, agent_2, metrics = free_ports(5)
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_worker_niceness": "0",  # as in a session of ours
        "RAY_AUTH_TOKEN": secrets.token_hex(20),
        "RAY_HEAD": f"127.0.0.1:{port}",
        "ACE_METRICS_PORT": str(metrics),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    common = ["--object-store-memory=80000000", "--disable-usage-stats", "--block"]
    starts = {
        "head": [
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--ray-client-server-port={client}",
            f"--temp-dir={folder}",
            f"--dashboard-agent-listen-port={agent}",
        ],
        "node": [
            f"--address=127.0.0.1:{port}",
            "--num-cpus=1",
            f"--dashboard-agent-listen-port={agent_2}",
        ],
    }
    services = []
    try:
        for name, options in starts.items():
            command = [script("ray"), "start", *options, *common]
            log = folder / f"{name}.log"
            services.append(Service.start(f"Ray {name}", command, os.environ | env, log))
            services[0].wait_until(lambda: answers(env))
        yield env
    finally:
        for service in reversed(services):
            service.stop()
        shutil.rmtree(folder, ignore_errors=True)


def answers(env: dict[str, str]) -> bool:
    command = [script("ray"), "health-check", f"--address={env['RAY_HEAD']}"]
    return subprocess.run(command, env=os.environ | env, capture_output=True).returncode == 0


def test_a_worker_joins_the_cluster_and_its_flow_runs_there(
    ray_head: dict[str, str],
    object_store: ObjectStore,
    prefect_server: PrefectServer,
    weights_dir: Path,
    store: Store,
    prefix: str,
    picture: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    """`infra/worker.sh`, as image, compose.yaml and Kubernetes run it."""
    env = (
        prefect_server.env
        | ray_head
        | {
            "ACE_WORK_POOL": "cluster",
            "ACE_DEVICE": "cpu",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
    )
    prefect = ("prefect", "--no-prompt")
    run([*prefect, "work-pool", "create", "cluster", "--type", "process"], env)
    run([*prefect, "deploy", "--name", "edit-catalog", "--pool", "cluster"], env)
    catalog = upload_catalog(store, prefix, picture, 6, 2)
    worker = Service.start(
        "worker", [str(ROOT / "infra" / "worker.sh")], os.environ | env, tmp_path / "worker.log"
    )
    try:
        run(
            [
                *prefect,
                "deployment",
                "run",
                "edit-catalog/edit-catalog",
                "--watch",
                "-p",
                f"catalog={catalog}",
                "-p",
                f"output={prefix}/out",
                "-p",
                "variant=toy",
            ],
            env,
        )
        assert len(list(store.list(f"{prefix}/out/records/"))) == 6
    except Exception:
        print(worker.log_tail(60))
        raise
    finally:
        worker.stop(limit_s())
    log = worker.log.read_text()
    assert "Ray runtime started" in log
    assert ray_head["RAY_AUTH_TOKEN"] not in log
    assert worker.process.returncode == 0


def test_a_worker_without_the_token_ends(ray_head: dict[str, str], tmp_path: Path) -> None:
    """Whoever runs it starts it anew, and sees that it does not stay."""
    env = ray_head | {"RAY_AUTH_TOKEN": "f" * 40, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    worker = Service.start(
        "worker", [str(ROOT / "infra" / "worker.sh")], os.environ | env, tmp_path / "worker.log"
    )
    try:
        assert worker.process.wait(limit_s()) != 0
    finally:
        worker.stop()
