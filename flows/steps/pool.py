"""The replicas of a run: a Ray session and the pool on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.runtime import deployment, flow_run

from ace_tasks.engine.actor import make_replica
from ace_tasks.engine.dispatcher import Dispatcher, Status
from ace_tasks.engine.session import gpus_in_cluster, ray_session
from ace_tasks.provenance.outcomes import Failed, write_failure
from ace_tasks.replica.host_memory import limit_bytes
from ace_tasks.settings import Origin, PoolSettings, ReplicaSettings, cpu_count
from ace_tasks.specs import WorkItem
from flows.steps.open_run import Run
from flows.steps.signing import make_signing_replica
from flows.ui.run_form import without_user

# Two hide fetch and upload behind the GPU if each takes less than one denoise.
_ITEMS_AROUND = 2
# Half of it is resident once `mini` is loaded, mostly libraries; the rest is for pictures.
_PROCESS_BYTES = 2**30
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@contextmanager
def one_session(run: Run) -> Iterator[None]:
    """Keep Ray for all pools of the body, so that only the first of them waits for its start."""
    with ray_session(run.environment.ray_address):
        yield


@contextmanager
def open_pool(run: Run, made_twice: frozenset[str] = frozenset()) -> Iterator[Dispatcher]:
    """Start Ray, and the dispatcher on it. For `made_twice` see `ReplicaSettings`.

    The pool ends with OverBudget once its replicas, and those of the run's earlier pools, have held
    their places longer than the run's budget allows. `run.spent_s` is the sum.
    """
    with ray_session(run.environment.ray_address):
        device = run.environment.device or ("cuda" if gpus_in_cluster() else "cpu")
        settings = PoolSettings(
            max_replicas=_at_most(run, device) or (None if device == "cuda" else 1),
            items_in_flight=run.environment.batch_size + _ITEMS_AROUND,
        )
        replica = _replica_settings(run, device, made_twice)
        # Each replica itself reads a key that is in a Prefect block.
        make = make_signing_replica if replica.marks.block else make_replica

        def note_failure(item: WorkItem, failed: Failed) -> None:
            write_failure(run.outputs, run.output, item, failed, run.run_id)

        before_s = run.spent_s

        def watch(status: Status) -> None:
            run.spent_s = before_s + status.held_s
            run.budget.check_spent(run.spent_s)

        with Dispatcher(
            replica, settings, run.run_id, note_failure, make=make, watch=watch
        ) as pool:
            run.events.pool_started()
            yield pool
        run.spent_s = before_s + pool.status.held_s


def _replica_settings(run: Run, device: str, made_twice: frozenset[str]) -> ReplicaSettings:
    url = without_user(flow_run.ui_url)
    threads = run.environment.torch_threads or cpu_count()
    return ReplicaSettings(
        variant=run.variant_name,
        variant_json=run.variant.model_dump_json(),
        weights=run.weights.model_copy(update={"memory": run.options.memory}),
        vision=run.vision,
        planned_model=run.model.fingerprint,
        adapter_mode=run.environment.adapter_mode,
        speed="fast" if run.pixels.shortcuts else run.options.speed_on(device),
        made_twice=made_twice,
        batch_size=run.environment.batch_size,
        device=device,
        # Not divided among replicas: the number of threads decides the last bit of a sum, and no
        # picture may depend on the number of replicas.
        torch_threads=threads if device == "cpu" else None,
        output_uri=run.output,
        source_store=run.environment.source_store,
        output_store=run.environment.output_store,
        review=run.review,
        marks=run.environment.marks,
        origin=Origin(flow=run.flow_name, url=url, deployment=deployment.name),
    )


def _at_most(run: Run, device: str) -> int:
    """Return how many of the requested replicas can work side by side; 0 if none were requested.

    A cluster may grow, so it has no limit. This machine is limited by its cores, GPUs and memory.
    """
    replicas = run.options.replicas
    if run.environment.ray_address or replicas <= 1:
        return replicas
    carried, by = cpu_count(), "CPU cores"
    if device == "cuda":
        carried, by = gpus_in_cluster(), "GPUs"
    elif (fitting := limit_bytes() // _replica_bytes(run)) < carried:
        carried, by = (
            fitting,
            f"replicas' worth of memory, {_replica_bytes(run) / 2**30:.1f} GiB each",
        )
    carried = max(carried, 1)
    if replicas > carried:
        run.replicas_asked = replicas
        get_run_logger().warning(
            "replicas: using %d, not %d: this machine has %d %s, and RAY_ADDRESS names no cluster",
            carried, replicas, carried, by,
        )  # fmt: skip
    return min(replicas, carried)


def _replica_bytes(run: Run) -> int:
    """Return the least memory of a replica on a CPU, in bytes.

    That is its process, and the part of its model whose size is known.
    """
    known = run.variant.transformer
    parameters = (known.parameters if known else None) or 0
    return _PROCESS_BYTES + parameters * _DTYPE_BYTES[run.variant.dtype]
