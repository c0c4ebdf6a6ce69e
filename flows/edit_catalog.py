"""Edit every row of a catalog file: the main flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.edit import MAX_SHARD_THREADS, edit_items
from flows.finish import finish_run
from flows.parameters import (
    DEFAULT_FEATHER,
    AcceptLicense,
    AllowEmptyMasks,
    AllowFullMasks,
    AllowUnguardedWrites,
    AutoMaskName,
    Candidates,
    Catalog,
    CropToMask,
    Feather,
    Geometry,
    KeepCandidates,
    MaxFailed,
    Output,
    PresetName,
    Quality,
    Replicas,
    RetryFailures,
    ReviewBelow,
    ShardSize,
    Strict,
    Variant,
    pixel_settings,
    review_settings,
)
from flows.run import open_run, plan_catalog, untracked


@flow(
    name="edit-catalog",
    flow_run_name="edit {catalog} with {variant}",
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
    auto_mask: AutoMaskName = "none",
    allow_empty_masks: AllowEmptyMasks = False,
    allow_full_masks: AllowFullMasks = False,
    preset: PresetName = "none",
    quality: Quality = 0,
    strict: Strict = False,
    max_failed: MaxFailed = 0,
    retry_failures: RetryFailures = False,
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
        ),
        review_settings(review_below, keep_candidates),
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        planned = plan_catalog(untracked(run), strict, retry_failures)
        edited = edit_items(run, planned, replicas=replicas, shard_size=shard_size)
        return finish_run(run, planned, edited, max_failed)
