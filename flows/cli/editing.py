"""`edit`, `retry`, `review`: pictures are made, tried again, looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import (
    AcceptLicense,
    AllowEmpty,
    AllowFull,
    AutoMaskName,
    Candidates,
    Catalog,
    CropToMask,
    DryRun,
    FailedRun,
    Feather,
    Geometry,
    GeometryName,
    MaxCost,
    MaxFailed,
    MaxReplicaHours,
    Output,
    PresetName,
    Quality,
    Replicas,
    VariantName,
)
from flows.cli.terminal import run_flow


def edit(
    catalog: Catalog,
    output: Output,
    variant: VariantName,
    geometry: GeometryName = Geometry.CATALOG,
    feather: Feather = 0.01,
    crop_to_mask: CropToMask = True,
    candidates: Candidates = 1,
    keep_candidates: Annotated[
        bool, typer.Option(help="Also store those that were not chosen.")
    ] = False,
    review_below: Annotated[
        float, typer.Option(min=0, max=1, help="Hold pictures of a lower score back; 0: none.")
    ] = 0,
    auto_mask: AutoMaskName = "",
    allow_empty_masks: AllowEmpty = False,
    allow_full_masks: AllowFull = False,
    preset: PresetName = "",
    quality: Quality = 0,
    strict: Annotated[bool, typer.Option(help="Stop if a row is no valid spec.")] = False,
    max_failed: MaxFailed = 0,
    retry_failures: Annotated[bool, typer.Option(help="Try what failed for good again.")] = False,
    dry_run: DryRun = False,
    max_replica_hours: MaxReplicaHours = 0,
    max_cost: MaxCost = 0,
    replicas: Replicas = 0,
    shard_size: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in a task run.")] = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: Annotated[
        bool, typer.Option(help="Go on with a store that ignores If-None-Match.")
    ] = False,
) -> None:
    """Edit every row of a catalog that is not edited yet."""
    from flows.edit_catalog import edit_catalog  # Prefect and Ray: only when they are needed

    run_flow(
        edit_catalog,
        "editing",
        catalog=catalog,
        output=output,
        variant=variant,
        geometry=geometry.value,
        feather=feather,
        crop_to_mask=crop_to_mask,
        candidates=candidates,
        keep_candidates=keep_candidates,
        review_below=review_below,
        auto_mask=auto_mask,
        allow_empty_masks=allow_empty_masks,
        allow_full_masks=allow_full_masks,
        preset=preset,
        quality=quality,
        strict=strict,
        max_failed=max_failed,
        retry_failures=retry_failures,
        dry_run=dry_run,
        max_replica_hours=max_replica_hours,
        max_cost=max_cost,
        replicas=replicas,
        shard_size=shard_size,
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    )


def retry(
    output: Output,
    failed_run: FailedRun,
    codes: Annotated[
        str, typer.Option(help="Error codes to retry, comma-separated. Empty: all.")
    ] = "",
    max_failed: MaxFailed = 0,
    replicas: Replicas = 0,
    accept_license: AcceptLicense = False,
) -> None:
    """Try the failed rows of a run again."""
    from flows.retry_failed import retry_failed

    run_flow(
        retry_failed,
        "editing",
        output=output,
        failed_run=failed_run,
        codes=codes,
        max_failed=max_failed,
        replicas=replicas,
        accept_license=accept_license,
    )


def review(
    output: Output,
    run: FailedRun,
    promote: Annotated[str, typer.Option(help="Rows to publish, comma-separated, or: all.")] = "",
    discard: Annotated[
        str, typer.Option(help="Rows whose picture is not wanted, comma-separated, or: all.")
    ] = "",
) -> None:
    """Show the pictures that a run held back; publish or discard them."""
    from flows.review_run import review_run

    run_flow(review_run, "reviewing", output=output, run=run, promote=promote, discard=discard)
