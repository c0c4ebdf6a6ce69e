"""Edit every picture of a prefix, table or product feed by one instruction; on a schedule, those
that are new or changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.restyle import Instruction, RowDefaults, restyle_rows
from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.mask_files import open_masks
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures
from ace_tasks.catalog.sources.prefixes import buckets_of, check_apart, uris_of
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped, SourcePicture
from ace_tasks.plan.resume import RetryRules
from flows.options import (
    DEFAULT_FEATHER,
    AcceptLicense,
    AdapterName,
    AllowEmptyMasks,
    AllowFullMasks,
    AllowUnguardedWrites,
    AutoMaskName,
    BackgroundColour,
    CanaryItems,
    CanaryWaitHours,
    Candidates,
    CropToMask,
    DryRun,
    Encoding,
    Feather,
    FormatName,
    Geometry,
    KeepCandidates,
    Limit,
    LinksFrom,
    LinksTo,
    MainOnly,
    MaskGrow,
    MaskInvert,
    MaskLabel,
    Masks,
    MaxCost,
    MaxFailed,
    MaxReplicaHours,
    Output,
    PresetName,
    Prompt,
    Quality,
    RedoOlder,
    References,
    Replicas,
    RetryFailures,
    ReviewBelow,
    Seed,
    Shadow,
    ShardSize,
    Source,
    Steps,
    Strict,
    StrictMasks,
    TaskName,
    Variant,
    check_auto_mask,
    pixel_settings,
    review_settings,
)
from flows.steps.canary import Canary
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import RunOptions, execute_run
from flows.steps.open_run import (
    Run,
    make_catalog,
    open_run,
    plan_catalog,
    refusals_noted,
    untracked,
)
from flows.ui.names import run_name


@flow(
    name="restyle-catalog",
    flow_run_name=run_name("restyle {source} with {variant}"),
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARD_THREADS),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def restyle_catalog(
    source: Source,
    output: Output,
    variant: Variant,
    prompt: Prompt = "",
    task: TaskName = "edit",
    mask: Masks = "none",
    mask_invert: MaskInvert = False,
    mask_grow: MaskGrow = 0,
    mask_label: MaskLabel = "",
    auto_mask: AutoMaskName = "u2net",
    reference: References = "",
    limit: Limit = 0,
    dry_run: DryRun = False,
    links_from: LinksFrom = "",
    links_to: LinksTo = "",
    encoding: Encoding = "",
    main_only: MainOnly = False,
    format: FormatName = "source",  # noqa: A002
    quality: Quality = 0,
    preset: PresetName = "none",
    background: BackgroundColour = "white",
    shadow: Shadow = False,
    steps: Steps = 0,
    seed: Seed = -1,
    adapter: AdapterName = "",
    candidates: Candidates = 1,
    keep_candidates: KeepCandidates = False,
    review_below: ReviewBelow = 0.0,
    geometry: Geometry = "catalog",
    feather: Feather = DEFAULT_FEATHER,
    crop_to_mask: CropToMask = True,
    allow_empty_masks: AllowEmptyMasks = False,
    allow_full_masks: AllowFullMasks = False,
    strict_masks: StrictMasks = False,
    strict: Strict = False,
    max_failed: MaxFailed = 0,
    retry_failures: RetryFailures = False,
    redo_older: RedoOlder = False,
    max_replica_hours: MaxReplicaHours = 0.0,
    max_cost: MaxCost = 0.0,
    canary: CanaryItems = 0,
    canary_wait_hours: CanaryWaitHours = 72.0,
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
) -> State[Any]:
    """Edit every picture of a source by one instruction, as far as it is not edited yet.

    A picture is known by its content: one that is new or changed since the last run is edited, one
    that was renamed has a result without being edited. Another instruction is another edit of all.
    """
    check_apart(source=source, output=output, mask=mask)
    check_auto_mask("mask", mask, auto_mask)
    links = Links.named(links_from, links_to)
    instruction = Instruction(
        prompt,
        task,
        uris_of("reference", reference),
        RowDefaults(mask_invert, mask_grow, mask_label, format, steps, seed, adapter, shadow),
    )
    instruction.check(mask)
    with open_run(
        source,
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
        buckets=buckets_of(source, mask, links_to, *instruction.references),
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        place = SourcePlace(
            "source",
            source,
            links,
            run.environment.allowed_buckets,
            main_only=main_only,
            once=True,
            encoding=encoding,
        )
        rows = _rows(run, place, instruction, mask, limit)
        with refusals_noted(run):
            made = make_catalog(untracked(run), untracked(rows))
        rules = RetryRules(failures=retry_failures, redo_older=redo_older)
        return execute_run(
            run,
            lambda overrides: plan_catalog(untracked(run), rules, overrides, made, strict=strict),
            RunOptions(
                max_failed=max_failed,
                replicas=replicas,
                shard_size=shard_size,
                dry_run=dry_run,
                budget=run.budget(max_replica_hours, max_cost),
                canary=Canary(canary, canary_wait_hours),
            ),
        )


def _rows(
    run: Run, place: SourcePlace, instruction: Instruction, mask: str, limit: int
) -> Iterator[GeneratedRow | Skipped | Reject]:
    masked = (each for each in pictures(place, run.sources) if isinstance(each, SourcePicture))
    with open_masks("mask", mask, run.sources, run.scratch, optional=True, masked=masked) as rule:
        yield from restyle_rows(pictures(place, run.sources), instruction, rule, limit)
