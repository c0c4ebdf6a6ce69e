"""A run that begins on one node of a Ray cluster and is joined by a second; in a process of its
own, since a cluster's settings must not reach other tests.

    python -m tests.joining_node

Prints JSON: what the run looked like before and after.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

# Before Ray is imported: everything on the loopback.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}

import ray
from ray.cluster_utils import Cluster

from ace_tasks.engine import Dispatcher, ray_session
from ace_tasks.engine.pool import Seat
from ace_tasks.provenance import Done
from ace_tasks.settings import PoolSettings
from tests.benchmarks.dispatch import REPLICA
from tests.replicas import SleepingReplica, item

_LIMIT_S = 120


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster is too slow")
        time.sleep(0.05)


def usual(seats: Sequence[Seat]) -> list[int]:
    """[ready, waiting for a node, nodes] as they are for most of three seconds, two looks at the
    cluster. On a busy machine a seat may be idle for long enough to be given back in between.
    """
    seen: Counter[tuple[int, int, int]] = Counter()
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        now = list(seats)
        nodes = {seat.node_id for seat in now if seat.ready}
        seen[len([s for s in now if s.ready]), sum(s.node_id is None for s in now), len(nodes)] += 1
        time.sleep(0.05)
    assert max(waiting for _, waiting, _ in seen) <= 1, seen
    return list(seen.most_common(1)[0][0])


def main() -> None:
    told: dict[str, object] = {}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    pool = PoolSettings(max_replicas=4, idle_release_s=1)
    try:
        with (
            ray_session(cluster.address),
            Dispatcher(REPLICA, pool, "run", lambda *_: None, SleepingReplica) as dispatcher,
        ):
            status, seats = dispatcher.status, dispatcher._pool.seats
            makers: set[str] = set()
            stop = threading.Event()

            def edit() -> None:
                for shard in range(1000):
                    items = [item(100 * shard + n, "sleep 0.05") for n in range(100)]
                    done = dispatcher.edit(items, shard)
                    makers.update(each.output_uri for each in done if isinstance(each, Done))
                    if stop.is_set():
                        return

            work = threading.Thread(target=edit)
            work.start()
            until(lambda: status.done > 20)
            told["before"] = usual(seats)
            cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
            until(lambda: status.replicas_ready == 2)
            told["after"] = usual(seats)
            stop.set()
            work.join()
            told["makers"] = len(makers)
            until(lambda: len(seats) == 1)
            until(lambda: ray.available_resources().get("CPU") == 1)
            told["at_the_end"] = [len(seats), status.deaths]
    finally:
        cluster.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
