"""The most items a second that the dispatcher can hand out, to replicas that do nothing.

    .venv/bin/python -m tests.benchmarks.dispatch --replicas 3 --items 3000

An item of a full-size model takes seconds, so what is left of this figure is how many replicas one
dispatcher can feed.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.settings import PoolSettings, ReplicaSettings, WeightsSettings
from tests.support.replicas import SleepingReplica, item

REPLICA = ReplicaSettings(
    variant="toy", weights=WeightsSettings(folder=Path("unused")), output_uri="s3://unused"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    pool = PoolSettings(max_replicas=asked.replicas, items_in_flight=asked.in_flight)
    items = [item(number, "sleep 0") for number in range(asked.items)]
    with (
        ray_session(cpus=asked.replicas),
        Dispatcher(REPLICA, pool, "run", lambda *_: None, SleepingReplica) as dispatcher,
    ):
        while dispatcher.status.replicas_ready < asked.replicas:
            dispatcher.edit(items[: 10 * asked.replicas], 0)
        for _ in range(asked.rounds):
            started, cpu = time.monotonic(), _cpu_s()
            assert len(dispatcher.edit(items, 0)) == asked.items
            seconds, cpu = time.monotonic() - started, _cpu_s() - cpu
            print(
                f"{asked.replicas} replicas: {asked.items / seconds:.0f} items/s, "
                f"{1000 * cpu / asked.items:.2f} ms of the dispatcher's CPU an item"
            )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
