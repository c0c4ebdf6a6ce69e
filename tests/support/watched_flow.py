"""The main flow in a process of its own, with a window for a test to look through.

    python -m tests.support.watched_flow CATALOG OUTPUT FOLDER [REPLICAS]

`FOLDER/alone` holds the number of items that wait to run alone or do; `FOLDER/computed` gets one
line whenever a replica begins an item. Where a test writes a number to `FOLDER/brake`, replicas
wait once more items than that have begun, until the file is gone. While `FOLDER/hold` is there, no
further item is given to a replica, but for those that have to run alone.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import flows.steps.pool
from ace_tasks.engine.dispatcher import Dispatcher, Status
from ace_tasks.engine.queue import Queue
from ace_tasks.settings import ReplicaSettings


def make_counting_replica(log: Path, settings: ReplicaSettings, run_id: str, name: str) -> Any:
    """Make the real replica, which notes what it begins. Runs in the actor: torch stays there."""
    from ace_tasks.images.codec import Pictures
    from ace_tasks.replica.replica import Replica
    from ace_tasks.specs import Resolved

    class CountingReplica(Replica):
        def _prepare(self, resolved: Resolved, pictures: Pictures) -> Any:
            with log.open("a") as file:  # one short append: whole, whoever else writes
                file.write(f"{resolved.seed}\n")
            while brakes(log):
                self._check_cancelled()
                time.sleep(0.05)
            return super()._prepare(resolved, pictures)

    return CountingReplica(settings, run_id, name)


def brakes(log: Path) -> bool:
    try:
        return len(log.read_text().split()) > int(log.with_name("brake").read_text())
    except FileNotFoundError:
        return False


class WatchedDispatcher(Dispatcher):
    folder: Path

    def __init__(self, *arguments: Any, **more: Any) -> None:
        """Take replicas of ours in the place of the flow's, and watch beside it."""
        make = functools.partial(make_counting_replica, self.folder / "computed")
        watch = more["watch"]

        def note(status: Status) -> None:
            scratch = self.folder / f"alone.{os.getpid()}"
            scratch.write_text(str(status.alone))
            scratch.rename(self.folder / "alone")
            watch(status)

        super().__init__(*arguments, **more | {"make": make, "watch": note})

    def _fill_workers(self) -> None:
        if not (self.folder / "hold").exists():
            super()._fill_workers()
            return
        held, self._waiting = self._waiting, Queue()
        super()._fill_workers()
        self._waiting = held


def main() -> int:
    catalog, output, folder, *more = sys.argv[1:]
    replicas = int(more[0]) if more else 2
    WatchedDispatcher.folder = Path(folder)
    flows.steps.pool.Dispatcher = WatchedDispatcher  # type: ignore[misc]
    logging.getLogger("ace_tasks").setLevel(logging.INFO)
    from flows.edit_catalog import edit_catalog

    state = edit_catalog(
        catalog=catalog,
        output=output,
        variant="toy",
        run={"replicas": replicas, "shard_size": 25},
        return_state=True,
    )
    print(state.name, state.message)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    raise SystemExit(main())
