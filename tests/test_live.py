"""What moves in the UI while a run works. If these break, a person sees a run stand still, or a
server that is away takes replicas' time."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from ace_tasks.engine import ShardStatus, Status
from flows.live import Live, Shards, told_time
from infra.prefect_server import PrefectServer
from infra.services import HOST, free_ports


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
        (3, "working", 2), (4, "working", 7), (1, "ended", 0), (2, "ended", 0), (0, "ended", 0),
    ]  # fmt: skip
    assert table[0]["errors"] == "bad\\_mask 1"


def test_a_run_of_a_million_keeps_a_page_of_them() -> None:
    shards = Shards()
    for number in range(31_250):
        shards.end(shard(number, 7, timeout=1) if number == 5 else shard(number, 8))
    table = shards.table([])
    assert shards.ended == 31_250
    assert len(table) == 50
    assert [row["shard"] for row in table[:2]] == [5, 31_249]


def test_progress_shards_and_codes_move_on_a_real_server(prefect_server: PrefectServer) -> None:
    seen: dict[str, Any] = {}

    @flow
    def works() -> None:
        status = Status(done=11, failed=1, replicas_ready=2)
        with Live("moving", 40, "40 rows") as live:
            live.end_shard(shard(0, 7, timeout=1))
            live.tell(8, 1, {"timeout": 1}, status, [shard(1, 4), shard(2, 0, bad_mask=2)])
            deadline = time.monotonic() + 60
            while set(seen) < {"progress", "shards", "errors"}:
                assert time.monotonic() < deadline, seen.keys()
                seen.update(artifacts(prefect_server, "moving"))
                time.sleep(0.2)
            time.sleep(3)
            seen.update(artifacts(prefect_server, "moving"))

    works()
    assert seen["progress"]["data"] == 35.0
    line = seen["progress"]["description"]
    assert line.startswith("11 done, 3 failed, 26 waiting of 40 rows; 2 replicas alive")
    assert "items/s, about " in line
    codes = json.loads(seen["errors"]["data"])
    assert {row["error"]: row["rows"] for row in codes} == {"timeout": 1, "bad\\_mask": 2}
    assert [row["shard"] for row in json.loads(seen["shards"]["data"])] == [1, 2, 0]
    assert seen["progress"]["flow_run_id"] is not None


def test_what_is_told_last_is_there_in_the_end(prefect_server: PrefectServer) -> None:
    @flow
    def works() -> None:
        with Live("last", 2, "2 rows") as live:
            live.tell(1, 0, {}, Status())
            live.tell(2, 0, {}, Status())

    works()
    assert artifacts(prefect_server, "last")["progress"]["data"] == 100.0


def test_a_server_that_is_away_takes_nobodys_time(caplog: pytest.LogCaptureFixture) -> None:
    (port,) = free_ports(1)
    with (
        temporary_settings({PREFECT_API_URL: f"http://{HOST}:{port}/api"}),
        Live("away", 1000, "1000 rows") as live,
    ):
        started = time.monotonic()
        for number in range(1000):
            live.tell(number, 0, {}, Status())
        took = time.monotonic() - started
    assert took < 1
    assert "progress artifact not written" in caplog.text


def test_a_cancelled_run_does_not_wait_for_a_server_that_hangs() -> None:
    """The promise is that all processes are gone 15 s after the signal."""
    with socket.create_server((HOST, 0)) as deaf:  # takes connections, answers nothing
        api = f"http://{HOST}:{deaf.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: api}):
            live = Live("deaf", 2, "2 rows")
            live.__enter__()
            live.tell(1, 0, {}, Status())
            time.sleep(1)
            started = time.monotonic()
            live.__exit__(KeyboardInterrupt)
            assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("seconds", "told"), [(8, "8 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_times_are_told_as_people_say_them(seconds: float, told: str) -> None:
    assert told_time(seconds) == told
