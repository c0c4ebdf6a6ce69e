"""How full the memory around a replica is. If these break, a container is killed with all its
items in flight, though its node had memory to spare."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ace_tasks.engine.pool import Worker
from ace_tasks.replica.host_memory import Gauge, Memory, limit_bytes

GB = 2**30


def write(root: Path, **files: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a node of which a tenth is used, and this process's cgroups: system(lines) → root."""
    node = SimpleNamespace(total=100 * GB, available=90 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: node)

    def make(cgroup: str) -> Path:
        write(tmp_path / "proc/self", cgroup=cgroup)
        return tmp_path

    return make


def test_here_it_is_read() -> None:
    memory = Gauge().read()
    assert 2**20 < memory.process_bytes < psutil.virtual_memory().total
    assert 0 < memory.used_share <= 1


def test_the_tightest_cgroup_above_the_process_counts(system: Callable[[str], Path]) -> None:
    root = system("0::/pods/mine")
    top = root / "sys/fs/cgroup"
    write(
        top / "pods",
        memory__max=4 * GB,
        memory__current=int(3.96 * GB),
        memory__stat=f"anon 1\ninactive_file {int(0.04 * GB)}",
    )
    write(top / "pods/mine", memory__max="max", memory__current=GB, memory__stat="inactive_file 0")
    assert Gauge(root).read().used_share == pytest.approx(0.98)


def test_files_that_the_kernel_can_drop_are_not_used_memory(system: Callable[[str], Path]) -> None:
    """A replica that reads 34 GB of weights fills its container's page cache."""
    root = system("0::/")
    write(
        root / "sys/fs/cgroup",
        memory__max=4 * GB,
        memory__current=4 * GB,
        memory__stat=f"inactive_file {4 * GB}",
    )
    assert Gauge(root).read().used_share == pytest.approx(0.1)  # the node's


def test_version_1_and_a_path_that_the_container_does_not_see(
    system: Callable[[str], Path],
) -> None:
    root = system("9:cpu:/x\n4:memory:/kubepods/burstable/pod7\n0::/")
    write(
        root / "sys/fs/cgroup/memory",
        memory__limit_in_bytes=2 * GB,
        memory__usage_in_bytes=int(1.97 * GB),
        memory__stat="total_inactive_file 0",
    )
    assert Gauge(root).read().used_share == pytest.approx(0.985, abs=0.001)


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_no_limit_is_none(system: Callable[[str], Path], limit: object) -> None:
    root = system("4:memory:/\n0::/")
    for folder in ("sys/fs/cgroup/memory", "sys/fs/cgroup"):
        write(root / folder, memory__max=limit, memory__limit_in_bytes=limit)
    assert Gauge(root).read().used_share == pytest.approx(0.1)


def test_the_limit_is_that_of_the_tightest_cgroup(system: Callable[[str], Path]) -> None:
    root = system("0::/pods/mine")
    assert limit_bytes(root) == 100 * GB
    write(root / "sys/fs/cgroup/pods", memory__max=8 * GB)
    write(root / "sys/fs/cgroup/pods/mine", memory__max="max")
    assert limit_bytes(root) == 8 * GB
    old = system("4:memory:/\n0::/")
    write(old / "sys/fs/cgroup/memory", memory__limit_in_bytes=2 * GB)
    assert limit_bytes(old) == 2 * GB


def test_a_worker_gets_more_again_when_memory_is_free(caplog: pytest.LogCaptureFixture) -> None:
    nothing: Any = None
    worker = Worker("replica-3", *[nothing] * 4, started_at=0, ready=True)
    rooms = []
    for used in (0.5, 0.95, 0.97, 0.8, 0.95):
        worker.note(Memory(2 * GB, used), max_share=0.9)
        rooms.append(worker.room(4))
    assert rooms == [4, 1, 1, 4, 1]
    with caplog.at_level(logging.WARNING):
        assert [each for each in caplog.messages if "replica-3" in each] == [
            "replica-3 gets one item at a time: 95 % of its node's memory are used, 2048 MB by "
            "itself"
        ]
