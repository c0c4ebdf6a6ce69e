"""A run whose Ray head is lost and comes back, with what it knew in a Redis; in a process of its own,
since a cluster's settings must not reach other tests.

    python -m tests.support.lost_head

The head has a namespace of processes for itself, as in a pod: Ray refuses a second one on a machine
where it sees the first one's nodes. So Linux and root, beside a `redis-server`. Prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil

# Before Ray is imported: nobody without the token, and the patience that the overlay has.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # as in a session of ours
    "RAY_AUTH_TOKEN": secrets.token_hex(20),
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}

import ray

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.provenance.outcomes import Done, Outcome
from ace_tasks.settings import PoolSettings
from infra.services import HOST, Service, free_ports, script
from tests.benchmarks.dispatch import REPLICA
from tests.support.patience import wait_until
from tests.support.replicas import SleepingReplica, item

_CPUS = 2  # of the node: one for each replica
_IN_FLIGHT = 6  # in two replicas
_AWAY_S = 5  # the run looks at the cluster every two seconds: it meets the loss
_ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
_COMMON = ["--object-store-memory=80000000", "--disable-usage-stats", "--block"]


class Place:
    """A Redis, a head that keeps what it knows there, and a node with two CPUs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.redis_port, self.port, self._client, *self._agents = free_ports(5)
        self._password = secrets.token_hex(20)
        self.address = f"{HOST}:{self.port}"

    def start_redis(self) -> Service:
        settings = f"requirepass {self._password}\nbind {HOST}\nport {self.redis_port}\nsave ''\n"
        (self.folder / "redis.conf").write_text(settings)
        command = [shutil.which("redis-server") or "redis-server", str(self.folder / "redis.conf")]
        return Service.start("Redis", command, os.environ, self.folder / "redis.log")

    def start_head(self) -> Service:
        """Start it, perhaps again; it is `head` from now on."""
        env = os.environ | {
            "RAY_REDIS_ADDRESS": f"{HOST}:{self.redis_port}",
            "RAY_external_storage_namespace": "ace",
        }
        command = [
            *_ALONE,
            script("ray"),
            "start",
            "--head",
            f"--port={self.port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--ray-client-server-port={self._client}",
            f"--redis-password={self._password}",  # as KubeRay gives it
            f"--temp-dir={self.folder}",
            f"--dashboard-agent-listen-port={self._agents[0]}",
            *_COMMON,
        ]
        self.head = Service.start("Ray head", command, env, self.folder / "head.log")
        self.head.wait_until(self._answers)
        return self.head

    def start_node(self) -> Service:
        command = [
            script("ray"),
            "start",
            f"--address={self.address}",
            f"--num-cpus={_CPUS}",
            f"--temp-dir={self.node_folder}",
            f"--dashboard-agent-listen-port={self._agents[1]}",
            *_COMMON,
        ]
        self.node = Service.start("Ray node", command, os.environ, self.folder / "node.log")
        return self.node

    def replicas(self) -> list[int]:
        """Return the pids of the node's processes that are a replica, by the title Ray gives."""
        found = []
        for each in psutil.Process(self.node.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it is gone
                if " ".join(each.cmdline()).startswith("ray::ReplicaActor"):
                    found.append(each.pid)
        return found

    def join(self) -> None:
        ray.init(address=self.address, _temp_dir=self.node_folder, log_to_driver=False)

    @property
    def node_folder(self) -> str:
        """Return the folder by which a driver names its node, of two on one machine."""
        return str(self.folder / "n")

    def _answers(self) -> bool:
        command = [script("ray"), "health-check", f"--address={self.address}"]
        return subprocess.run(command, capture_output=True).returncode == 0


def end(service: Service) -> None:
    """Send SIGKILL to all its processes: none may say goodbye."""
    with contextlib.suppress(psutil.Error):  # it is gone
        for each in psutil.Process(service.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                each.kill()
    service.kill()


def lose_the_head(place: Place) -> dict[str, object]:
    """Run items, lose the head, start it again; return what was seen.

    One replica more is asked for than there is room for. It waits for its place meanwhile.
    """
    outcomes: list[Outcome] = []
    with Dispatcher(
        REPLICA, PoolSettings(max_replicas=_CPUS + 1), "run", lambda *_: None, SleepingReplica
    ) as dispatcher:
        go = place.folder / "go"
        orders = ["sleep 0"] * 20 + [f"wait {go}"] * _IN_FLIGHT + ["sleep 0.25"] * 54
        items = [item(number, order) for number, order in enumerate(orders)]
        run = threading.Thread(target=lambda: outcomes.extend(dispatcher.edit(items, 0)))
        run.start()
        status = dispatcher.status
        wait_until(
            lambda: status.done == 20 and status.replicas_ready == _CPUS,
            "two replicas and 20 items",
        )
        before = place.replicas()
        end(place.head)
        go.touch()
        time.sleep(_AWAY_S)
        place.start_head()
        wait_until(lambda: not run.is_alive(), "the end of the run", output=place.head.log_tail)
        after = place.replicas()
    done = {each.item_id for each in outcomes if isinstance(each, Done)}
    return {
        "given": len(items),
        "done": len(done),
        "outcomes": len(outcomes),
        "deaths": status.deaths,
        "replicas": [len(before), len(after), len({*before, *after})],
    }


def end_the_run(place: Place) -> dict[str, object]:
    """Leave the cluster, as a run's process does; return what is left of the run there then.

    The node gives a CPU that the lost head had asked for, for the replica that waited, to nobody.
    """
    wait_until(lambda: not place.replicas(), "the end of all replicas")
    held = _cpus_in_use()
    ray.shutdown()
    place.join()
    wait_until(lambda: not _cpus_in_use(), "all CPUs to be free", output=place.node.log_tail)
    return {"held_until_then": held, "left": len(place.replicas())}


def _cpus_in_use() -> float:
    return float(_CPUS - ray.available_resources().get("CPU", 0))


def main() -> None:
    with contextlib.ExitStack() as stop:
        # Sockets have short names only.
        place = Place(Path(stop.enter_context(tempfile.TemporaryDirectory(prefix="ace-head-"))))
        stop.callback(end, place.start_redis())
        place.start_head()
        stop.callback(lambda: end(place.head))
        stop.callback(end, place.start_node())
        wait_until(Path(place.node_folder).is_dir, "the node's folder")
        place.join()
        print(json.dumps(lose_the_head(place) | end_the_run(place)), flush=True)
    os._exit(0)  # there is no cluster left to say goodbye to


if __name__ == "__main__":
    main()
