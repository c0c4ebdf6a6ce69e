"""Edit every row of a catalog file: the main flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from ace_tasks.plan.resume import RetryRules
from flows.options import (
    DEFAULT_FEATHER,
    AcceptLicense,
    AllowEmptyMasks,
    AllowFullMasks,
    AllowUnguardedWrites,
    AutoMaskName,
    BackgroundColour,
    CanaryItems,
    CanaryWaitHours,
    Candidates,
    Catalog,
    CropToMask,
    DryRun,
    Feather,
    Geometry,
    KeepCandidates,
    MaxCost,
    MaxFailed,
    MaxReplicaHours,
    Output,
    PresetName,
    Quality,
    RedoOlder,
    Replicas,
    RetryFailures,
    ReviewBelow,
    ShardSize,
    Strict,
    StrictMasks,
    Variant,
    pixel_settings,
    review_settings,
)
from flows.steps.canary import Canary
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import RunOptions, execute_run
from flows.steps.open_run import open_run, plan_catalog, untracked
from flows.ui.names import run_name


@flow(
    name="edit-catalog",
    flow_run_name=run_name("edit {catalog} with {variant}"),
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARD_THREADS),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def edit_catalog(
    catalog: Catalog,
    output: Output,
    variant: Variant,
    geometry: Geometry = "catalog",
    feather: Feather = DEFAULT_FEATHER,
    crop_to_mask: CropToMask = True,
    candidates: Candidates = 1,
    keep_candidates: KeepCandidates = False,
    review_below: ReviewBelow = 0.0,
    auto_mask: AutoMaskName = "u2net",
    allow_empty_masks: AllowEmptyMasks = False,
    allow_full_masks: AllowFullMasks = False,
    strict_masks: StrictMasks = False,
    preset: PresetName = "none",
    background: BackgroundColour = "white",
    quality: Quality = 0,
    strict: Strict = False,
    max_failed: MaxFailed = 0,
    retry_failures: RetryFailures = False,
    redo_older: RedoOlder = False,
    dry_run: DryRun = False,
    max_replica_hours: MaxReplicaHours = 0.0,
    max_cost: MaxCost = 0.0,
    canary: CanaryItems = 0,
    canary_wait_hours: CanaryWaitHours = 72.0,
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
) -> State[Any]:
    """Edit every row of a catalog that is not edited yet.

    Ends `Completed`, or `FinishedWithFailures` when more than `max_failed` rows have no picture.
    """
    with open_run(
        catalog,
        output,
        variant,
        pixel_settings(
            geometry,
            feather,
            crop_to_mask,
            candidates,
            auto_mask,
            allow_empty_masks,
            allow_full_masks,
            preset,
            quality,
            background,
        ),
        review_settings(review_below, keep_candidates, strict_masks),
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        rules = RetryRules(failures=retry_failures, redo_older=redo_older)
        return execute_run(
            run,
            lambda overrides: plan_catalog(untracked(run), rules, overrides, strict=strict),
            RunOptions(
                max_failed=max_failed,
                replicas=replicas,
                shard_size=shard_size,
                dry_run=dry_run,
                budget=run.budget(max_replica_hours, max_cost),
                canary=Canary(canary, canary_wait_hours),
            ),
        )
