"""Options for the limits of a run, the work that it repeats, and its replicas."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ace_tasks.plan.price import Budget
from ace_tasks.plan.resume import RetryRules
from ace_tasks.specs import PixelSettings, Shortcuts
from flows.options.groups import Options
from flows.options.places import AcceptLicense

RedoOlder = Annotated[
    bool,
    Field(
        description="Edit again what an earlier version of this software finished, if this "
        "version makes other pixels. Off = such pictures count as done."
    ),
]


class PlanOptions(Options):
    """Limits that stop a run, and work of earlier runs that it repeats."""

    dry_run: bool = Field(
        False, description="Only report what the run would do, and what it would take."
    )
    strict: bool = Field(
        False,
        description="Stop before any GPU work if a row is not valid. Off = reject such rows and "
        "edit the others.",
    )
    retry_failures: bool = Field(
        False,
        description="Try again the rows that failed for good in an earlier run. Pictures that "
        "wait for review, or were discarded, are left alone.",
    )
    redo_older: RedoOlder = False
    max_replica_hours: float = Field(
        0.0,
        ge=0,
        description="Stop the run if it would take, or has taken, more replica-hours. These are "
        "GPU-hours if each replica has a GPU. 0 = no limit.",
    )
    max_cost: float = Field(
        0.0,
        ge=0,
        description="Stop the run above this cost. Needs ACE_PRICE_PER_HOUR on the worker. 0 = no "
        "limit.",
    )

    def retry_rules(self) -> RetryRules:
        """Return which rows of earlier runs are edited again."""
        return RetryRules(failures=self.retry_failures, redo_older=self.redo_older)

    def budget(self, price_per_hour: float | None) -> Budget:
        """Return the limits. Raises SettingsError for a limit in money without a price."""
        return Budget(self.max_replica_hours, self.max_cost, price_per_hour)


class WorkOptions(Options):
    """The replicas and shards of a run, and the failures that it may have."""

    max_failed: int = Field(
        0,
        ge=0,
        description="Number of rejected and failed rows that a completed run may have. 0 = none.",
    )
    replicas: int = Field(
        0,
        ge=0,
        description="Largest number of model replicas. 0 = one for each GPU, or one without GPUs.",
    )
    speed: Literal["auto", "exact", "compiled", "fast"] = Field(
        "auto",
        description="exact: on one machine, an item has the same bits each time. compiled: faster "
        "on a GPU, after a minute of compiling; it differs by rounding. fast: leaves out work and "
        "changes pictures, so they are other items; one picture in four, at most 8 a run, is made "
        "a second time, exact, to measure the loss. auto: compiled on a GPU, exact on a CPU.",
    )
    memory: Literal["auto", "resident", "text_offload", "blocks", "offload"] = Field(
        "auto",
        description="What stays on a GPU. resident: everything, 39 GB for FLUX.1. text_offload: "
        "not the text encoders. blocks: and of the transformer only as many blocks as fit. "
        "offload: and none of them. auto: the first of these that fits. No bit changes.",
    )
    shard_size: int = Field(32, ge=1, le=10_000, description="Rows in each task run of the UI.")
    accept_license: AcceptLicense = False
    allow_unguarded_writes: bool = Field(
        False,
        description="Use a store even if it ignores If-None-Match. Two runs may then overwrite "
        "each other's records.",
    )

    def settle(self, pixels: PixelSettings) -> PixelSettings:
        """Return the settings that decide pixels, with what the speed decides of them.

        `auto` leaves it as it is, so a retry of a fast run is fast.
        """
        if self.speed == "auto":
            return pixels
        shortcuts = Shortcuts() if self.speed == "fast" else None
        return pixels.model_copy(update={"shortcuts": shortcuts})

    def speed_on(self, device: str) -> Literal["exact", "compiled", "fast"]:
        """Return how a replica on this device works."""
        if self.speed == "auto":
            return "compiled" if device == "cuda" else "exact"
        return self.speed


class RunOptions(WorkOptions, PlanOptions):
    """Limits of a run, work that it repeats, and its replicas."""


def again(work: WorkOptions) -> RunOptions:
    """Return the options of a run that edits every row of its catalog again."""
    return RunOptions(retry_failures=True, redo_older=True, **work.model_dump())
