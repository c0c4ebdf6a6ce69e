"""Prefect on PostgreSQL, a real one. If these break, a team that outgrows SQLite finds out at the
first restart, or its database's password lies about in the open."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra.local_stack import LocalStack
from infra.postgres import Postgres
from infra.services import ServiceFailed, free_ports
from tests.support.patience import limit_s

pytestmark = pytest.mark.thorough


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that PostgreSQL's own user may read: it runs the server where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="ace-postgres-"))
    folder.chmod(0o755)
    try:
        Postgres(folder / "found").start().stop()
    except ServiceFailed as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_and_its_history_outlive_the_stack(
    folder: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.local_stack.preferred_port", lambda port: free_ports(1)[0])
    row = {"id": "mug", "task": "edit", "image": "s3://shop/mug.png", "prompt": "p", "steps": 1}
    with LocalStack(folder, "postgres") as stack:
        for name, value in stack.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        store = Store(StoreSettings())
        store.create_bucket("shop")
        store.put("s3://shop/mug.png", picture(), "image/png")
        store.put("s3://shop/catalog.jsonl", json.dumps(row).encode(), "text/plain")
        stack.serve_deployments()
        stack.run(
            "prefect",
            "deployment",
            "run",
            "edit-catalog/edit-catalog",
            "--watch",
            "--param",
            "catalog=s3://shop/catalog.jsonl",
            "--param",
            "output=s3://shop/edited",
            "--param",
            "variant=toy",
        )
        assert [run["state_name"] for run in runs(stack)] == ["Completed"]
        assert not list((folder / "prefect").glob("*.db")), "SQLite was at work"
        password = (folder / "postgres" / "password").read_text()
        assert (folder / "postgres" / "password").stat().st_mode & 0o077 == 0
        files = [folder / "stack.json", folder / "prefect" / "server.log", folder / "worker.log"]
        assert all(password not in each.read_text(errors="replace") for each in files)
        assert password not in json.dumps(stack.env)
    with LocalStack(folder, "postgres") as stack:
        assert [run["state_name"] for run in runs(stack)] == ["Completed"]


def runs(stack: LocalStack) -> list[dict[str, Any]]:
    answer = httpx.post(f"{stack.ui_url}/api/flow_runs/filter", json={}, timeout=limit_s())
    answer.raise_for_status()
    return list(answer.json())


def test_it_comes_back_after_a_crash(folder: Path) -> None:
    postgres = Postgres(folder / "crashed").start()
    postgres.kill()
    postgres.start().stop()
