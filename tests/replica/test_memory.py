"""How much memory a process may use. If these break, a container is killed by more replicas, or
larger pictures, than its limit carries, though its node has memory to spare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ace_tasks.replica.host_memory import limit_bytes

GB = 2**30


def write(root: Path, **files: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a node of 100 GB, and this process's cgroups: system(lines) → root."""
    node = SimpleNamespace(total=100 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: node)

    def make(cgroup: str) -> Path:
        write(tmp_path / "proc/self", cgroup=cgroup)
        return tmp_path

    return make


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096])
def test_no_limit_is_none(system: Callable[[str], Path], limit: object) -> None:
    root = system("4:memory:/\n0::/")
    for folder in ("sys/fs/cgroup/memory", "sys/fs/cgroup"):
        write(root / folder, memory__max=limit, memory__limit_in_bytes=limit)
    assert limit_bytes(root) == 100 * GB


def test_a_path_that_the_container_does_not_see_has_its_root_s_limit(
    system: Callable[[str], Path],
) -> None:
    root = system("9:cpu:/x\n4:memory:/kubepods/burstable/pod7\n0::/")
    write(root / "sys/fs/cgroup/memory", memory__limit_in_bytes=2 * GB)
    assert limit_bytes(root) == 2 * GB


def test_the_limit_is_that_of_the_tightest_cgroup(system: Callable[[str], Path]) -> None:
    root = system("0::/pods/mine")
    assert limit_bytes(root) == 100 * GB
    write(root / "sys/fs/cgroup/pods", memory__max=8 * GB)
    write(root / "sys/fs/cgroup/pods/mine", memory__max="max")
    assert limit_bytes(root) == 8 * GB
    old = system("4:memory:/\n0::/")
    write(old / "sys/fs/cgroup/memory", memory__limit_in_bytes=2 * GB)
    assert limit_bytes(old) == 2 * GB
