"""This system: its main flow, as `ace-catalog edit` runs it."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import flows.steps.pool
from ace_tasks.settings import ReplicaSettings
from tests.benchmarks.contenders.workload import Workload

if TYPE_CHECKING:
    from ace_tasks.replica.replica import Replica


def make_watched(workload: Workload, settings: ReplicaSettings, run_id: str, name: str) -> Replica:
    """The real replica around the watched model. Runs in the actor: torch stays there."""
    from ace_tasks.provenance.outcomes import Done, Outcome
    from ace_tasks.replica import replica
    from ace_tasks.specs import WorkItem
    from tests.benchmarks.contenders.model import watched

    class WatchedReplica(replica.Replica):
        def run(self, item: WorkItem, shard: int, attempt: int = 1) -> Outcome:
            outcome = super().run(item, shard, attempt)
            if isinstance(outcome, Done):
                workload.record("published", item.resolved.seed)
            return outcome

    replica.AceModel = watched(workload)  # type: ignore[misc]
    return WatchedReplica(settings, run_id, name)


def run(workload: Workload) -> None:
    flows.steps.pool.make_replica = functools.partial(make_watched, workload)  # type: ignore[assignment]
    from flows.edit_catalog import edit_catalog

    state = edit_catalog(
        catalog=workload.catalog,
        output=workload.output,
        variant=workload.variant,
        run={"replicas": workload.replicas, "shard_size": workload.shard_size},
        return_state=True,
    )
    if not state.is_completed():
        sys.exit(f"{state.name}: {state.message}")
