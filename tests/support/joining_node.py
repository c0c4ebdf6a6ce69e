"""A run that begins on one node of a Ray cluster and is joined by a second; in a process of its
own, since a cluster's settings must not reach other tests.

    python -m tests.support.joining_node

Prints JSON: what the run looked like before and after.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

# Before Ray is imported: everything on the loopback.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}

import ray
from ray.cluster_utils import Cluster

from ace_tasks.engine.dispatcher import Dispatcher, Status
from ace_tasks.engine.session import ray_session
from ace_tasks.provenance.outcomes import Done
from ace_tasks.settings import PoolSettings
from tests.benchmarks.dispatch import REPLICA
from tests.support.patience import wait_until
from tests.support.replicas import SleepingReplica, item

_LOOKS = 2


class WatchedStatus:
    """The status of a run, looked at again and again."""

    def __init__(self, status: Status):
        self._status = status
        self.waiting_most = 0

    def now(self) -> tuple[int, int, int]:
        """Return how many are ready, how many wait for a node, and on how many nodes they are."""
        status = self._status
        waiting = status.replicas - status.replicas_by_node.total()
        self.waiting_most = max(self.waiting_most, waiting)
        return status.replicas_ready, waiting, len(status.replicas_by_node)

    def after_looks(self) -> tuple[int, int, int]:
        """Return them once the pool has looked at the cluster again, and once more."""
        before = self._status.looks

        def looked() -> bool:
            self.now()
            return self._status.looks >= before + _LOOKS

        wait_until(looked, "looks at the cluster")
        return self.now()


def main() -> None:
    report: dict[str, object] = {}
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
            status, watched = dispatcher.status, WatchedStatus(dispatcher.status)
            stop = threading.Event()

            def edit(start: int) -> set[str]:
                """Edit shards until it is time to stop; return who made the pictures."""
                makers: set[str] = set()
                for shard in range(start, 1000, 2):
                    items = [item(100 * shard + n, "sleep 0.05") for n in range(100)]
                    done = dispatcher.edit(items, shard)
                    makers.update(each.output_uri for each in done if isinstance(each, Done))
                    if stop.is_set():
                        break
                return makers

            # Two of them, so that no worker is idle between two shards.
            with ThreadPoolExecutor(2) as threads:
                work = [threads.submit(edit, start) for start in (0, 1)]
                try:
                    wait_until(lambda: status.done > 20, "items done on one node")
                    report["before"] = watched.after_looks()
                    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
                    wait_until(lambda: status.replicas_ready == 2, "a replica on the new node")
                    report["after"] = watched.after_looks()
                finally:
                    stop.set()
            report["makers"] = len(set.union(*(each.result() for each in work)))
            report["waiting_most"] = watched.waiting_most
            wait_until(lambda: status.replicas == 1, "idle workers to be given back")
            wait_until(lambda: ray.available_resources().get("CPU") == 1, "their CPUs to be free")
            report["at_the_end"] = [status.replicas, status.deaths]
    finally:
        cluster.shutdown()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
