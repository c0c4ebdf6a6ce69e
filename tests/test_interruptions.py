"""Runs that are cut: killed, cancelled, started twice. If these break, an interrupted batch is paid
for again, GPUs keep running after a cancel, or two schedules overwrite each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ace_tasks.provenance import Record
from ace_tasks.store import Store, join_uri
from infra.services import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IN_FLIGHT = 3
# About a second an item: far from done when the first few are, however fast the machine.
ROWS, STEPS = 24, 200
Upload = Callable[[int, int], str]


@pytest.fixture
def upload(store: Store, prefix: str, picture: Callable[..., bytes]) -> Upload:
    def write(rows: int, steps: int) -> str:
        return upload_catalog(store, prefix, picture, rows, steps)

    return write


def upload_catalog(
    store: Store, prefix: str, picture: Callable[..., bytes], rows: int, steps: int
) -> str:
    lines = []
    for number in range(rows):
        image = join_uri(prefix, f"in/{number}.png")
        store.put(image, picture(64, 64, seed=number), "image/png")
        row = {"id": f"row-{number}", "task": "edit", "image": image, "prompt": "p"}
        lines.append(json.dumps(row | {"steps": steps, "seed": number}))
    store.put(join_uri(prefix, "catalog.jsonl"), "\n".join(lines).encode(), "text/plain")
    return join_uri(prefix, "catalog.jsonl")


class Flow:
    """The main flow in a process of its own, and what it computed."""

    def __init__(self, catalog: str, output: str, folder: Path):
        self.catalog, self.output, self.folder = catalog, output, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.watched_flow", self.catalog, self.output,
             str(self.folder), "1"],
            cwd=ROOT, env=os.environ | {"PREFECT_LOGGING_LEVEL": "CRITICAL"},
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> int:
        assert self.process
        return self.process.wait(300)

    def wait_for_records(self, store: Store, count: int) -> None:
        assert self.process
        while len(records(store, self.output)) < count:
            assert self.process.poll() is None, "the run ended too early"
            time.sleep(0.2)

    def computed(self) -> Counter[str]:
        return Counter((self.folder / "computed").read_text().split())

    def family(self) -> list[psutil.Process]:
        """Every process of the run: Ray's are in the session the flow leads."""
        assert self.process
        mine = []
        for each in psutil.process_iter():
            try:
                if os.getsid(each.pid) == self.process.pid:
                    mine.append(each)
            except ProcessLookupError:
                continue
        return mine


def records(store: Store, output: str) -> list[str]:
    return [each.uri for each in store.list(join_uri(output, "records/"))]


@pytest.fixture
def new_flow(
    store: Store, prefix: str, tmp_path: Path, prefect_server: Any, weights_dir: Path
) -> Iterator[Callable[..., Flow]]:
    made: list[Flow] = []

    def make(catalog: str, name: str = "a") -> Flow:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Flow(catalog, join_uri(prefix, "out"), folder))
        return made[-1]

    yield make
    for flow in made:  # where a test failed: it would go on, beside all later tests
        for each in flow.family() if flow.process else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def test_a_killed_run_goes_on_where_it_was(
    upload: Upload, new_flow: Callable[..., Flow], store: Store, capsys: Any
) -> None:
    flow = new_flow(upload(60, 20))
    flow.start()
    flow.wait_for_records(store, 20)
    assert flow.process
    flow.process.kill()
    flow.process.wait()
    flow.start()
    assert flow.wait() == 0
    assert len(records(store, flow.output)) == 60
    computed = flow.computed()
    assert len(computed) == 60
    again = computed.total() - 60
    assert again <= IN_FLIGHT
    with capsys.disabled():
        print(f"\nkill -9 after 20 of 60 rows: {again} pictures computed again")


def test_a_cancelled_run_is_gone_with_all_its_processes_and_resumes(
    upload: Upload, new_flow: Callable[..., Flow], store: Store
) -> None:
    """Cancelled twice, by what a process worker sends and by Ctrl-C."""
    flow = new_flow(upload(ROWS, STEPS))
    finished = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        flow.start()
        flow.wait_for_records(store, finished + 3)
        stop(flow, number)
        finished = len(records(store, flow.output))
        assert 3 <= finished < ROWS
    flow.start()
    assert flow.wait() == 0
    assert len(records(store, flow.output)) == ROWS
    assert len(list(store.list(join_uri(flow.output, "failures/")))) == 0  # nobody was blamed


def stop(flow: Flow, number: int) -> None:
    """Signal the whole process group, as a terminal and a process worker do; all must end."""
    family = flow.family()
    assert len(family) > 4  # the flow, Ray's servers, the actor
    assert flow.process
    sent = time.monotonic()
    os.killpg(flow.process.pid, number)
    # The promise is 15 s of a machine that is not busy otherwise, as tests make it.
    flow.process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=60)
    print(f"gone {time.monotonic() - sent:.1f} s after signal {number}")
    assert [each.cmdline() for each in alive] == []


def test_two_runs_of_one_catalog_publish_each_item_once(
    upload: Upload, new_flow: Callable[..., Flow], store: Store
) -> None:
    catalog = upload(20, 8)
    flows = [new_flow(catalog, "a"), new_flow(catalog, "b")]
    for flow in flows:
        flow.start()
    assert [flow.wait() for flow in flows] == [0, 0]
    standing = [
        Record.model_validate_json(store.get(uri)) for uri in records(store, flows[0].output)
    ]
    assert len(standing) == 20
    named = {record.output.uri for record in standing}
    pictures = {each.uri for each in store.list(join_uri(flows[0].output, "images/"))}
    assert pictures == named
