"""Ray itself: join a cluster, or start Ray on this machine and end it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import ray
from ray._private import ray_constants
from ray._private.accelerators import get_accelerator_manager_for_resource

from ace_tasks.errors import SettingsError
from ace_tasks.settings import cpu_count

# 78 MB is Ray's smallest store; nothing of ours goes through it.
_OBJECT_STORE_BYTES = 80 * 2**20
# Otherwise Ray starts a process for each CPU at once, a second of a core and 46 MB each, and waits
# for them (ray-project/ray#40131). A replica's process starts when it is asked for.
_SYSTEM: dict[str, Any] = {"prestart_worker_first_driver": False}
# Ray gives its workers a niceness of 15. Beside two other busy processes a core, a replica would
# get a fiftieth of it: measured, five minutes for a start that takes ten seconds. If
# RAY_worker_niceness is set, its value is kept.
_NICENESS = "RAY_worker_niceness"  # in the environment


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at `address`, or start Ray on this machine and end it afterwards.

    `cpus` is how many CPUs a started Ray shares out among replicas. `ray.init` replaces the SIGTERM
    handler for good, Prefect's included, so it is put back here.
    """
    if ray.is_initialized():
        yield
        return
    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            _connect(address, cpus)
        finally:
            if on_main_thread and handler is not None:
                signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = True


def _connect(address: str | None, cpus: int | None) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns about its own good defaults
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **common)
        return
    # Ray binds to the loopback only if clusters are switched off. Otherwise its ports, with or
    # without tokens, listen on every network of this machine.
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(
        address="local",
        num_cpus=cpus or cpu_count(),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        _system_config=_SYSTEM | ({} if _NICENESS in os.environ else {"worker_niceness": 0}),
        **common,
    )


def check_device(device: str | None, address: str | None) -> None:
    """Raise SettingsError for a GPU that will never come, before anything waits for it.

    A cluster's autoscaler may add one; nothing adds one to this machine.
    """
    if device != "cuda" or address:
        return
    if not (gpus_in_cluster() if ray.is_initialized() else _gpus_here()):
        raise SettingsError(
            "ACE_DEVICE: accepted: cpu, or empty; given cuda, but Ray finds no GPU on this machine "
            "(check the driver and CUDA_VISIBLE_DEVICES) and RAY_ADDRESS names no cluster"
        )


def _gpus_here() -> int:
    """Return how many GPUs Ray will find on this machine. It need not run for that."""
    manager = get_accelerator_manager_for_resource("GPU")
    if manager is None:
        return 0
    visible = manager.get_current_process_visible_accelerator_ids()
    there = int(manager.get_current_node_num_accelerators())
    return there if visible is None else min(there, len(visible))


def gpus_in_cluster() -> int:
    """Return how many GPUs the cluster has that we are connected to."""
    return int(ray.cluster_resources().get("GPU", 0))


def free_in_cluster(resource: Literal["GPU", "CPU"]) -> int:
    """Return how many of a resource nobody holds just now."""
    return int(ray.available_resources().get(resource, 0))
