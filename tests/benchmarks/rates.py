"""The rates that `scale` takes, measured on this machine: Ray and an object store.

Those of a Prefect server are measured by `task_runs`.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import ray

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.settings import PoolSettings, StoreSettings
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from tests.benchmarks.dispatch import REPLICA
from tests.support.replicas import SleepingReplica, item

_RATE = 125  # items a second: what 512 GPUs would ask of one dispatcher at 4.1 s an item


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def dispatcher(replicas: int, seconds: float = 20) -> None:
    """Run sleeping replicas, so quick that all of them together do 125 items a second."""
    sleep_s = replicas / _RATE
    pool = PoolSettings(max_replicas=replicas, items_in_flight=3)
    items = [item(number, f"sleep {sleep_s}") for number in range(int(seconds * _RATE))]
    with (
        ray_session(cpus=replicas),
        Dispatcher(REPLICA, pool, "run", lambda *_: None, SleepingReplica) as dispatcher,
    ):
        while dispatcher.status.replicas_ready < replicas:
            dispatcher.edit(items[: 3 * replicas], 0)
        started, cpu = time.monotonic(), _cpu_s()
        dispatcher.edit(items, 1)
        wall_s, cpu_s = time.monotonic() - started, _cpu_s() - cpu
        actors = [
            each
            for each in psutil.Process().children(recursive=True)
            if "ReplicaActor" in " ".join(each.cmdline() or [each.name()])
        ]
        memory = [each.memory_info().rss / 2**20 for each in actors]
    print(
        f"| {replicas} | {len(items) / wall_s:.0f} | {len(items) * sleep_s / replicas / wall_s:.1%} "
        f"| {1000 * cpu_s / len(items):.2f} | {sum(memory) / max(len(memory), 1):.0f} |",
        flush=True,
    )


class Asleep:
    def sleep(self) -> None:
        time.sleep(3600)


def calls_in_flight() -> None:
    """Measure how long Ray takes to look over many calls that are not done."""
    with ray_session(cpus=1):
        actor: Any = ray.remote(num_cpus=0, max_concurrency=1)(Asleep).remote()
        refs: list[Any] = []
        for count in (96, 384, 1536):
            refs += [actor.sleep.remote() for _ in range(count - len(refs))]
            ray.wait(refs, num_returns=1, timeout=1)
            started = time.process_time()
            for _ in range(50):
                ray.wait(list(refs), num_returns=1, timeout=0)
                ray.wait(list(refs), num_returns=len(refs), timeout=0)
            ms = 1000 * (time.process_time() - started) / 50
            print(f"| {count} | {ms:.2f} | {1000 * ms / count:.2f} |", flush=True)
        ray.kill(actor)


def store(keys: int = 5000) -> None:
    with tempfile.TemporaryDirectory(prefix="ace-rates-") as folder:
        service = ObjectStore(Path(folder)).start()
        try:
            os.environ.update(service.env)
            client = Store(StoreSettings())
            client.create_bucket("bench")
            uris = [join_uri("s3://bench/x", f"{number:08}") for number in range(keys)]
            for name, call in (
                ("PUT of 1 KB", lambda uri: client.put(uri, b"x" * 1024, "text/plain")),
                ("HEAD", client.head),
            ):
                started = time.monotonic()
                with ThreadPoolExecutor(32) as pool:
                    list(pool.map(call, uris))
                print(f"| {name} | {keys / (time.monotonic() - started):.0f} /s |", flush=True)
            started = time.monotonic()
            listed = sum(1 for _ in client.list("s3://bench/x/"))
            ms = 1000 * (time.monotonic() - started) / (listed / 1000)
            print(f"| a listed page of 1000 | {ms:.0f} ms |", flush=True)
        finally:
            service.stop()


def main(replicas: list[int]) -> None:
    print("| replicas | items/s | busy | ms of CPU an item | MB an actor |\n|---|---|---|---|---|")
    for each in replicas:
        dispatcher(each)
    print("\n| calls in flight | ms a round | µs a call |\n|---|---|---|")
    calls_in_flight()
    print("\n| object store, 32 at once | |\n|---|---|")
    store()
