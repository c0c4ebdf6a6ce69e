"""Run one contender over a workload; ends with 1 when it says that it failed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.benchmarks.contenders.workload import Workload

if __name__ == "__main__":
    name, path = sys.argv[1:]
    # Imported, not run as a script: what Ray sends to its workers is then found by its name.
    contender = importlib.import_module(f"tests.benchmarks.contenders.{name}")
    contender.run(Workload.read(Path(path)))
