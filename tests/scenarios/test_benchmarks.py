"""The benchmarks, at sizes that tell nothing but that they still run. If these break, the figures
of RESULTS.md can be had no more."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from ace_tasks.provenance.outcomes import Done
from infra.services import ROOT
from tests.benchmarks import busy, scale
from tests.benchmarks.contenders.workload import Workload


def bench(name: str, *arguments: str) -> str:
    """In a process of its own: its services must not reach the other tests."""
    run = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    return run.stdout


def test_the_busy_share_leaves_out_starting_up_and_the_tail(tmp_path: Path) -> None:
    """Ten passes of 1 s with pauses of 0.25 s, after a first one that took 9 s to load."""
    workload = Workload("w", "", "", "toy", "", str(tmp_path), items=11)
    starts = [0.0, *(10 + 1.25 * n for n in range(10))]
    lines = [f"{at} begun {n} 7\n{at + 1} made {n} 7\n" for n, at in enumerate(starts)]
    workload.journal.write_text("".join(lines))
    done = [Done(item_id="i", output_uri="u", sha256="0", seconds=1, timings_s={"fetch": 0.02})]
    found = busy.steady(workload, done)
    assert found.busy == pytest.approx(0.8)
    assert found.items_s == pytest.approx(0.8)
    assert found.gap_ms == pytest.approx(250)
    assert found.phases_ms == {"fetch": 20}


def test_the_page_of_the_scale_model_is_what_the_model_says() -> None:
    page = (ROOT / "docs" / "operations" / "scale.md").read_text()
    for table in scale.tables().split("\n\n"):
        assert table in page


@pytest.mark.bench
def test_peers_make_the_same_pictures() -> None:
    table = bench("peers", "--only", "sleeping", "--scale", "0.1")
    rows = [line for line in table.splitlines() if line.startswith("| sleeping")]
    assert len(rows) == 3 + (importlib.util.find_spec("prefect_ray") is not None)
    assert all(row.endswith("| 8 of 8 |") for row in rows), table


@pytest.mark.bench
def test_this_system_loses_nothing_to_a_kill() -> None:
    table = bench("peers", "--only", "kill", "--scale", "0.2")
    (ours,) = [line for line in table.splitlines() if line.startswith("| this system")]
    assert "went on to its end | 0 | 0, none was needed |" in ours, table
    assert int(ours.split("|")[-2]) <= 3


@pytest.mark.bench
def test_a_busy_share_is_measured() -> None:
    table = bench("busy", "--scale", "0.05")
    rows = [
        line for line in table.splitlines() if line.startswith(("| 0.05 s", "| 0.2 s", "| 1 s"))
    ]
    assert len(rows) == 4, table
    assert all(0 < float(row.split("|")[3].strip(" %")) <= 100 for row in rows)


@pytest.mark.bench
def test_memory_over_a_run_is_measured() -> None:
    table = bench("steady", "--items", "200")
    assert "200 of 200 items" in table
    assert "| flow |" in table
    assert "| replica |" in table
