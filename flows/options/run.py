"""How a run works: what stops it, what it repeats, on how many replicas."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ace_tasks.plan.price import Budget
from ace_tasks.plan.resume import RetryRules
from flows.options.groups import Options
from flows.options.places import AcceptLicense

RedoOlder = Annotated[
    bool,
    Field(
        description="Edit again what an earlier version of this software finished, where this "
        "version makes other pixels. Off: such pictures count as done."
    ),
]


class PlanOptions(Options):
    """What is planned, and what stops a run before it costs anything."""

    dry_run: bool = Field(False, description="Report what the run would do and take, and stop.")
    strict: bool = Field(
        False, description="Stop before any GPU work if a row is not a valid spec."
    )
    retry_failures: bool = Field(
        False,
        description="Try again what failed for good in an earlier run. Pictures that wait for a "
        "person, or were discarded, are left alone.",
    )
    redo_older: RedoOlder = False
    max_replica_hours: float = Field(
        0.0,
        ge=0,
        description="Stop the run if it would take, or has taken, more replica-hours. They are "
        "GPU-hours where each replica has a GPU. 0: no limit.",
    )
    max_cost: float = Field(
        0.0,
        ge=0,
        description="Stop the run above this cost. Needs ACE_PRICE_PER_HOUR on the worker. 0: no "
        "limit.",
    )

    def retry_rules(self) -> RetryRules:
        """Return what of an earlier run is done again."""
        return RetryRules(failures=self.retry_failures, redo_older=self.redo_older)

    def budget(self, price_per_hour: float | None) -> Budget:
        """Raises SettingsError for a limit in money without a price."""
        return Budget(self.max_replica_hours, self.max_cost, price_per_hour)


class WorkOptions(Options):
    """How a run works."""

    max_failed: int = Field(
        0, ge=0, description="How many rejects and failures a completed run may have."
    )
    replicas: int = Field(
        0, ge=0, description="Model replicas at most. 0: one for each GPU, or one on a CPU."
    )
    shard_size: int = Field(32, ge=1, le=10_000, description="Rows in one task run of the UI.")
    accept_license: AcceptLicense = False
    allow_unguarded_writes: bool = Field(
        False,
        description="Go on with a store that ignores If-None-Match. Runs may then overwrite each "
        "other's records.",
    )


class RunOptions(WorkOptions, PlanOptions):
    """What stops a run, what it does again, and how it works."""


def again(work: WorkOptions) -> RunOptions:
    """Return the options of a run that makes anew whatever its catalog holds."""
    return RunOptions(retry_failures=True, redo_older=True, **work.model_dump())
