"""Test the artifacts that move in the UI while a run works. If these break, a person sees a run
stand still, or a server that is away takes replicas' time."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from ace_tasks.engine.dispatcher import Status
from ace_tasks.engine.queue import ShardStatus
from flows.ui import artifacts as artifacts_module
from flows.ui import live as live_module
from flows.ui.artifacts import RunArtifact
from flows.ui.live import Shards, format_duration, showing
from infra.prefect_server import PrefectServer
from infra.services import HOST, free_ports
from tests.support.patience import limit_s, wait_until


def shard(index: int, done: int, **by_error: int) -> ShardStatus:
    return ShardStatus(index, 8, done, Counter(by_error))


def artifacts(server: PrefectServer, prefix: str) -> dict[str, Any]:
    found = httpx.post(
        f"{server.ui_url}/api/artifacts/filter", json={"artifacts": {"key": {"like_": prefix}}}
    ).json()
    return {each["key"].removeprefix(f"{prefix}-"): each for each in found}


def test_working_shards_come_first_and_then_those_with_failures() -> None:
    shards = Shards()
    for each in (shard(0, 8), shard(1, 6, timeout=2), shard(2, 8)):
        shards.end(each)
    table = shards.table([shard(4, 1), shard(3, 5, bad_mask=1), shard(2, 8)])
    assert [(row["shard"], row["state"], row["waiting"]) for row in table] == [
        (3, "working", 2),
        (4, "working", 7),
        (1, "ended", 0),
        (2, "ended", 0),
        (0, "ended", 0),
    ]
    assert table[0]["errors"] == "bad\\_mask 1"


def test_a_run_of_a_million_keeps_a_page_of_them() -> None:
    shards = Shards()
    for number in range(31_250):
        shards.end(shard(number, 7, timeout=1) if number == 5 else shard(number, 8))
    table = shards.table([])
    assert shards.ended == 31_250
    assert len(table) == 50
    assert [row["shard"] for row in table[:2]] == [5, 31_249]


def test_progress_shards_and_codes_move_on_a_real_server(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "_UPDATE_EVERY_S", 0.1)
    seen: dict[str, Any] = {}

    def moved() -> bool:
        """Tell whether each artifact has moved on from what it was made with."""
        seen.update(artifacts(prefect_server, "moving"))
        return (
            seen.keys() == {"progress", "shards", "errors"}
            and seen["progress"]["data"] > 0
            and "working" in seen["shards"]["data"]
        )

    @flow
    def works() -> None:
        status = Status(done=11, failed=1, replicas_ready=2)
        with showing("moving", 40, "40 rows") as live:
            live.end_shard(shard(0, 7, timeout=1))
            live.update(8, 1, {"timeout": 1}, status, [shard(1, 4), shard(2, 0, bad_mask=2)])
            wait_until(moved, "all three artifacts to move", output=lambda: str(seen))

    works()
    assert seen["progress"]["data"] == 35.0
    line = seen["progress"]["description"]
    assert line.startswith("11 done, 3 failed, 26 waiting of 40 rows; 2 replicas alive")
    assert "items/s, about " in line
    codes = json.loads(seen["errors"]["data"])
    assert {row["error"]: row["rows"] for row in codes} == {"timeout": 1, "bad\\_mask": 2}
    assert [row["shard"] for row in json.loads(seen["shards"]["data"])] == [1, 2, 0]
    assert seen["progress"]["flow_run_id"] is not None


def test_the_last_update_is_there_in_the_end(prefect_server: PrefectServer) -> None:
    @flow
    def works() -> None:
        with showing("last", 2, "2 rows") as live:
            live.update(1, 0, {}, Status())
            live.update(2, 0, {}, Status())

    works()
    assert artifacts(prefect_server, "last")["progress"]["data"] == 100.0


def test_a_server_that_is_away_takes_nobodys_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a thread of its own ever asks the server; the one that works does not."""
    asking: set[str] = set()
    show = RunArtifact.show

    def recorded(self: Any, *given: Any) -> None:
        asking.add(threading.current_thread().name)
        show(self, *given)

    monkeypatch.setattr(RunArtifact, "show", recorded)
    (port,) = free_ports(1)
    with (
        temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api"}),
        showing("away", 1000, "1000 rows") as live,
    ):
        for number in range(1000):
            live.update(number, 0, {}, Status())
    assert asking == {"artifacts"}
    assert "progress artifact not written" in caplog.text


def test_a_cancelled_run_does_not_wait_for_a_server_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The promise is that all processes are gone 15 s after the signal."""
    assert artifacts_module._CUT_S < 5
    monkeypatch.setattr(artifacts_module, "_CUT_S", 0.1)
    before = set(threading.enumerate())
    with socket.create_server((HOST, 0)) as deaf:  # takes connections, answers nothing
        deaf.settimeout(limit_s())
        api = f"http://{HOST}:{deaf.getsockname()[1]}/api"
        with ExitStack() as held, temporary_settings({PREFECT_API_URL: api}):
            with suppress(KeyboardInterrupt), showing("deaf", 2, "2 rows") as live:
                live.update(1, 0, {}, Status())
                held.enter_context(deaf.accept()[0])
                raise KeyboardInterrupt
            left = {each.name for each in threading.enumerate() if each not in before}
            assert "artifacts" in left, "the server is still waited for"


def test_an_artifact_is_created_once_and_written_again_after_a_failure(
    prefect_server: PrefectServer, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    table = RunArtifact("table", "once-rows")
    with temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api"}):
        table.show([{"row": 0}], "away")
    assert "once-rows artifact not written" in caplog.text
    for number in (1, 2):
        table.show([{"row": number}], f"row {number}")
    (found,) = artifacts(prefect_server, "once").values()
    assert (json.loads(found["data"]), found["description"]) == ([{"row": 2}], "row 2")


@pytest.mark.parametrize(
    ("seconds", "text"), [(8, "8 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations_are_formatted_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
