"""A run over a Ray cluster of unlike nodes, behind a token: one comes, one is drained, one is lost;
in a process of its own, since a cluster's settings must not reach other tests.

    python -m tests.support.nodes

Nodes are real raylets on one machine; their GPUs are said, not there. Prints JSON: what was seen.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before Ray is imported: everything on the loopback, and nobody without the token.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # as in a session of ours
    "RAY_AUTH_TOKEN": secrets.token_hex(20),
}

import ray
from ray.cluster_utils import Cluster

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.model import weights
from ace_tasks.model.variants import find_variant
from ace_tasks.provenance.outcomes import Done, Outcome
from ace_tasks.settings import PoolSettings, ReplicaSettings
from infra.services import script
from tests.benchmarks.dispatch import REPLICA
from tests.support.patience import limit_s, wait_until
from tests.support.replicas import SleepingReplica, item

_STORE_BYTES = 80 * 2**20
_SHARD = 200
_NOTICE_S = 4  # between the warning and the end of a spot machine, where it is two minutes


class OnItsNode(SleepingReplica):
    """Brings the weights of `toy` onto its node's disk, and tells where it made what."""

    def __init__(self, settings: ReplicaSettings, run_id: str, name: str):
        disk = Path(os.environ["NODE_DISK"])
        super().__init__(settings, run_id, f"{disk.name}/{name}")
        self._weights = settings.weights.model_copy(update={"folder": disk})

    def start(self) -> None:
        build = weights._build

        def counted(*arguments: Any) -> dict[str, str]:
            with (self._weights.folder.with_suffix(".journal")).open("a") as journal:
                journal.write("made\n")
            return build(*arguments)

        weights._build = counted
        weights.ensure(find_variant("toy"), self._weights)


def wait_for_looks(dispatcher: Dispatcher, count: int) -> None:
    """Wait until the pool has looked that many times at what the cluster has."""
    before = dispatcher.status.looks
    wait_until(lambda: dispatcher.status.looks >= before + count, "looks at the cluster")


@contextmanager
def nodes(disks: Path) -> Iterator[Any]:
    """Start a head without work; yield the cluster and add(name, gpus, cpus), which adds a node."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )

    def add(name: str, gpus: int, cpus: int = 4) -> Any:
        (disks / name).mkdir()
        return cluster.add_node(
            num_gpus=gpus,
            num_cpus=cpus,
            object_store_memory=_STORE_BYTES,
            env_vars={"NODE_DISK": str(disks / name)},
        )

    try:
        yield cluster, add
    finally:
        cluster.shutdown()


class Work:
    """Shards one after the other, on a thread of its own, until it is told to stop."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._edit)
        self.given = 0
        self.outcomes: list[Outcome] = []
        self._thread.start()

    def _edit(self) -> None:
        for shard in range(100):
            items = [item(_SHARD * shard + n, "sleep 0.1") for n in range(_SHARD)]
            self.given += len(items)
            self.outcomes += self._dispatcher.edit(items, shard)
            if self._stop.is_set():
                return

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def on_node(self) -> Counter[str]:
        """Items that are done, by the node that made them."""
        done = [each for each in self.outcomes if isinstance(each, Done)]
        return Counter(each.output_uri.split("/")[0] for each in done)


def outsiders() -> list[subprocess.Popen[str]]:
    """Have Ray asked without a token and with another one."""
    asked: list[subprocess.Popen[str]] = []
    address = f"{ray.get_runtime_context().gcs_address}"
    for token in (None, "f" * 40):
        env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
        env |= {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        code = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('IN')"
        for command in (
            [sys.executable, "-c", code],
            [script("ray"), "health-check", f"--address={address}"],
        ):
            asked.append(
                subprocess.Popen(
                    command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            )
    return asked


def answers(asked: list[subprocess.Popen[str]]) -> str:
    """Wait for what Ray said to each."""
    results = [(each.communicate(timeout=limit_s())[0], each.returncode) for each in asked]
    return " ".join("in" if code == 0 or "IN" in out else "refused" for out, code in results)


def main() -> None:
    report: dict[str, object] = {}
    pool = PoolSettings(max_replicas=None)  # as many as there are GPUs
    replica = REPLICA.model_copy(update={"device": "cuda"})
    with tempfile.TemporaryDirectory() as folder, nodes(Path(folder)) as (cluster, add):
        add("two-gpus", 2)
        add("cpus-only", 0)
        lost = add("spot", 1)
        with (
            ray_session(cluster.address),
            Dispatcher(replica, pool, "run", lambda *_: None, OnItsNode) as dispatcher,
        ):
            asked = outsiders()
            status = dispatcher.status
            work = Work(dispatcher)
            wait_until(lambda: status.replicas_ready == 3, "three replicas")
            wait_for_looks(dispatcher, 2)
            report["places"] = sorted(status.replicas_by_node.values())

            add("late", 1)
            wait_until(lambda: status.replicas_ready == 4, "a replica on the late node")
            before = status.done
            wait_until(lambda: status.done > before + 20, "items done with it")

            node_id = lost.node_id
            subprocess.run(
                [
                    script("ray"),
                    "drain-node",
                    f"--address={cluster.address}",
                    f"--node-id={node_id}",
                    "--reason=DRAIN_NODE_REASON_PREEMPTION",
                    "--reason-message=spot",
                    f"--deadline-remaining-seconds={_NOTICE_S}",
                ],
                check=True,
                capture_output=True,
            )
            time.sleep(_NOTICE_S)
            cluster.remove_node(lost, allow_graceful=False)
            wait_until(lambda: node_id not in status.replicas_by_node, "the worker to be given up")
            wait_until(lambda: status.replicas_ready == 3, "three replicas")
            before = status.done
            wait_until(lambda: status.done > before + 60, "items done without it")
            work.end()
            report["outsiders"] = answers(asked)
            done = [each.item_id for each in work.outcomes if isinstance(each, Done)]
            report["given"] = work.given
            report["done"], report["distinct"] = len(done), len(set(done))
            report["nodes_that_worked"] = sorted(work.on_node())
            report["deaths"] = status.deaths
        report["weights_made"] = {
            path.stem: len(path.read_text().splitlines())
            for path in sorted(Path(folder).glob("*.journal"))
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
