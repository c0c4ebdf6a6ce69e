"""Put garments on people: every one on every one, or in pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from ace_tasks.catalog.restyle import RowDefaults
from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.pictures import SourcePlace
from ace_tasks.catalog.sources.prefixes import buckets_of, check_apart
from ace_tasks.catalog.try_on import Batch
from ace_tasks.plan.resume import RetryRules
from ace_tasks.store import is_s3
from flows.options import (
    DEFAULT_FEATHER,
    AcceptLicense,
    AdapterName,
    AllowEmptyMasks,
    AllowFullMasks,
    AllowUnguardedWrites,
    AutoMaskName,
    CanaryItems,
    CanaryWaitHours,
    Candidates,
    CropToMask,
    DryRun,
    Encoding,
    Feather,
    FormatName,
    Garments,
    Geometry,
    KeepCandidates,
    Limit,
    LinksFrom,
    LinksTo,
    MaskGrow,
    MaskInvert,
    MaskLabel,
    MaxCost,
    MaxFailed,
    MaxPairs,
    MaxReplicaHours,
    Output,
    Pairing,
    PairsTable,
    People,
    PersonMasks,
    PresetName,
    Quality,
    RedoOlder,
    Replicas,
    RetryFailures,
    ReviewBelow,
    Seed,
    ShardSize,
    Steps,
    Strict,
    StrictMasks,
    TryOnPrompt,
    Variant,
    check_auto_mask,
    pixel_settings,
    review_settings,
)
from flows.steps.canary import Canary
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import RunOptions, execute_run
from flows.steps.open_run import make_catalog, open_run, plan_catalog, refusals_noted, untracked
from flows.steps.preflight import price_of
from flows.ui.names import run_name


@flow(
    name="try-on-batch",
    flow_run_name=run_name("try {garments} on {people} with {variant}"),
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARD_THREADS),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def try_on_batch(
    people: People,
    garments: Garments,
    output: Output,
    variant: Variant,
    masks: PersonMasks,
    prompt: TryOnPrompt = "the person wears this garment",
    pairing: Pairing = "cross",
    pairs: PairsTable = "",
    max_pairs: MaxPairs = 1000,
    limit: Limit = 0,
    dry_run: DryRun = False,
    mask_invert: MaskInvert = False,
    mask_grow: MaskGrow = 0,
    mask_label: MaskLabel = "",
    auto_mask: AutoMaskName = "none",
    links_from: LinksFrom = "",
    links_to: LinksTo = "",
    encoding: Encoding = "",
    format: FormatName = "source",  # noqa: A002
    quality: Quality = 0,
    preset: PresetName = "none",
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
    """Make a picture of each pair of a person and a garment, as far as there is none yet.

    The pairs are counted first, and nothing is made where there are more than `max_pairs`; what they
    would take is said.
    """
    check_apart(people=people, garments=garments, masks=masks, output=output)
    check_auto_mask("masks", masks, auto_mask)
    links = Links.named(links_from, links_to)
    # What is local may name what is local; what is on S3 may not.
    catalog = people if is_s3(garments) else garments
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
        review_settings(review_below, keep_candidates, strict_masks),
        buckets=buckets_of(people, garments, masks, links_to),
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        allowed = run.environment.allowed_buckets
        batch = Batch(
            SourcePlace("people", people, links, allowed, encoding=encoding),
            SourcePlace("garments", garments, links, allowed, encoding=encoding),
            masks,
            prompt,
            pairing,
            pairs,
            max_pairs,
            limit,
            RowDefaults(mask_invert, mask_grow, mask_label, format, steps, seed, adapter),
            encoding,
        )
        rows = batch.rows(run.sources, run.scratch, partial(price_of, run))
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
