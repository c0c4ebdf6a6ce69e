"""Run a Prefect worker that hands its runs on when it is asked to end.

    python -m infra.worker --pool local

A worker of Prefect that is stopped kills the processes of its runs, so that these stay *Running*
until a missed heartbeat crashes them. Here each run's process is asked to end first. It reports
that it was ended, and another worker takes it up (`flows/ui/forms.py`).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from typing import Any

import psutil

from infra.services import die_with_parent, script

GRACE_S = 45  # for runs to end their step and their pool; compose and Kubernetes give 60 and more


def hand_over(worker: psutil.Process, grace_s: float = GRACE_S) -> None:
    """Have the runs of a worker end, and then the worker.

    Meanwhile the worker is suspended, or it would take up at once what its runs hand on.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.suspend()
        runs = worker.children()
        for each in runs:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        deadline = time.monotonic() + grace_s
        while any(map(_is_at_work, runs)) and time.monotonic() < deadline:
            time.sleep(0.1)
        worker.terminate()
        worker.resume()


def _is_at_work(run: psutil.Process) -> bool:
    """Return whether a run's process has not ended. Its suspended parent leaves a zombie."""
    try:
        return bool(run.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main() -> int:
    command = [script("prefect"), "worker", "start", "--type", "process", *sys.argv[1:]]
    worker = subprocess.Popen(command, preexec_fn=die_with_parent)

    def end(*_: Any) -> None:
        hand_over(psutil.Process(worker.pid))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return worker.wait()


if __name__ == "__main__":
    raise SystemExit(main())
