"""Runs that are cut: killed, cancelled, started twice. If these break, an interrupted batch is paid
for again, GPUs keep running after a cancel, or two schedules overwrite each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from infra.services import Service
from tests.support.patience import limit_s, wait_until

IN_FLIGHT = 3
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
        self.service: Service | None = None

    def start(self, brake: int) -> None:
        """Start it, perhaps again. It begins as many items as `brake` says, and waits at the next.

        So it is still at work when the test cuts it, however slow the test is.
        """
        (self.folder / "brake").write_text(str(self.computed().total() + brake))
        command = [
            sys.executable,
            "-m",
            "tests.support.watched_flow",
            self.catalog,
            self.output,
            str(self.folder),
            "1",
        ]
        env = os.environ | {"PREFECT_LOGGING_LEVEL": "CRITICAL"}
        self.service = Service.start("flow", command, env, self.folder / "flow.log")

    def release(self) -> None:
        (self.folder / "brake").unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        assert self.service
        return self.service.process.pid

    def wait(self) -> None:
        """Wait for its end, which has to be a good one."""
        assert self.service
        wait_until(self._has_ended, "the end of the run", output=self.service.log_tail)
        assert self.service.process.returncode == 0, self.service.log_tail(60)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait while it is at work."""
        assert self.service

        def met() -> bool:
            if condition():
                return True
            assert self.service
            assert not self._has_ended(), f"the run ended too early:\n{self.service.log_tail(60)}"
            return False

        wait_until(met, what, output=self.service.log_tail)

    def _has_ended(self) -> bool:
        assert self.service
        return self.service.process.poll() is not None

    def wait_for_records(self, store: Store, count: int) -> None:
        self.wait_for(lambda: len(records(store, self.output)) >= count, f"{count} records")

    def resume(self) -> Summary:
        """Run it to its end in this process."""
        state = edit_catalog(
            catalog=self.catalog, output=self.output, variant="toy", return_state=True
        )
        assert state.name == "Completed", state.message
        return Summary.model_validate(state.result())

    def computed(self) -> Counter[str]:
        """Count how often each item was begun, in all starts."""
        log = self.folder / "computed"
        return Counter(log.read_text().split() if log.exists() else ())

    def family(self) -> list[psutil.Process]:
        """Return every process of the run: Ray's are in the session the flow leads."""
        mine = []
        for each in psutil.process_iter():
            try:
                if os.getsid(each.pid) == self.pid:
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
        for each in flow.family() if flow.service else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def test_a_killed_run_goes_on_where_it_was(
    upload: Upload, new_flow: Callable[..., Flow], store: Store, replicas_here: None
) -> None:
    flow = new_flow(upload(20, 10))
    flow.start(brake=15)
    flow.wait_for_records(store, 5)
    assert flow.service
    flow.service.kill()
    summary = flow.resume()
    assert 5 <= summary.done_before < 20
    assert summary.done == 20 - summary.done_before
    assert len(records(store, flow.output)) == 20
    again = flow.computed().total() + summary.done - 20
    assert again <= IN_FLIGHT, "pictures that were computed again"


@pytest.mark.thorough
def test_a_cancelled_run_is_gone_with_all_its_processes_and_resumes(
    upload: Upload, new_flow: Callable[..., Flow], store: Store, replicas_here: None
) -> None:
    """Cancel it twice: by the signal that a process worker sends, and by Ctrl-C."""
    flow = new_flow(upload(16, 100))
    finished = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        flow.start(brake=6)
        flow.wait_for_records(store, finished + 3)
        stop(flow, number)
        finished = len(records(store, flow.output))
        assert 3 <= finished < 16
    assert flow.resume().done == 16 - finished
    assert len(records(store, flow.output)) == 16
    assert len(list(store.list(join_uri(flow.output, "failures/")))) == 0  # nobody was blamed


def stop(flow: Flow, number: int) -> None:
    """Signal the whole process group, as a terminal and a process worker do; all must end."""
    family = flow.family()
    assert len(family) > 4  # the flow, Ray's servers, the actor
    os.killpg(flow.pid, number)
    assert flow.service
    flow.service.process.wait(limit_s())
    _, alive = psutil.wait_procs(family, timeout=limit_s())
    assert [each.cmdline() for each in alive] == []


@pytest.mark.thorough
def test_two_runs_of_one_catalog_publish_each_item_once(
    upload: Upload, new_flow: Callable[..., Flow], store: Store
) -> None:
    catalog = upload(20, 8)
    flows = [new_flow(catalog, "a"), new_flow(catalog, "b")]
    for flow in flows:
        flow.start(brake=0)
    for flow in flows:
        flow.wait_for(lambda flow=flow: flow.computed().total() > 0, "its first item")
    for flow in flows:
        flow.release()
    for flow in flows:
        flow.wait()
    standing = [
        Record.model_validate_json(store.get(uri)) for uri in records(store, flows[0].output)
    ]
    assert len(standing) == 20
    named = {record.output.uri for record in standing}
    pictures = {each.uri for each in store.list(join_uri(flows[0].output, "images/"))}
    assert pictures == named
