"""`edit`, `restyle`, `try-on`, `retry`, `review`: pictures are made, tried again, looked at.

The options of a command are the parameters of its flow, by the same names and defaults.
"""

from __future__ import annotations

from flows.cli.terminal import run_flow
from flows.options import (
    DEFAULT_FEATHER,
    AcceptLicense,
    AdapterName,
    AllowEmptyMasks,
    AllowFullMasks,
    AllowUnguardedWrites,
    AutoMaskName,
    BackgroundColour,
    Candidates,
    Catalog,
    Codes,
    CropToMask,
    Discard,
    DryRun,
    Encoding,
    Feather,
    FormatName,
    Garments,
    Geometry,
    Json,
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
    MaxPairs,
    MaxReplicaHours,
    Output,
    Pairing,
    PairsTable,
    People,
    PersonMasks,
    PresetName,
    Promote,
    Prompt,
    Quality,
    RedoOlder,
    References,
    Replicas,
    RetryFailures,
    ReviewBelow,
    RunId,
    Seed,
    Shadow,
    ShardSize,
    Source,
    Steps,
    Strict,
    StrictMasks,
    TaskName,
    TryOnPrompt,
    Variant,
)


def edit(
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
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
    as_json: Json = False,
) -> None:
    """Edit every row of a catalog that is not edited yet."""
    parameters = locals()
    from flows.edit_catalog import edit_catalog  # Prefect and Ray: only when they are needed

    run_flow(edit_catalog, "editing", **parameters)


def restyle(
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
    dry_run: DryRun = False,
    max_replica_hours: MaxReplicaHours = 0.0,
    max_cost: MaxCost = 0.0,
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
    as_json: Json = False,
) -> None:
    """Edit every picture of a prefix, table or product feed by one instruction."""
    parameters = locals()
    from flows.restyle_catalog import restyle_catalog

    run_flow(restyle_catalog, "restyling", **parameters)


def try_on(
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
    dry_run: DryRun = False,
    max_replica_hours: MaxReplicaHours = 0.0,
    max_cost: MaxCost = 0.0,
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
    as_json: Json = False,
) -> None:
    """Put garments on people: every one on every one, or pairs."""
    parameters = locals()
    from flows.try_on_batch import try_on_batch

    run_flow(try_on_batch, "trying on", **parameters)


def retry(
    output: Output,
    failed_run: RunId,
    codes: Codes = "",
    max_failed: MaxFailed = 0,
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
    as_json: Json = False,
) -> None:
    """Try the failed rows of a run again."""
    parameters = locals()
    from flows.retry_failed import retry_failed

    run_flow(retry_failed, "editing", **parameters)


def review(output: Output, run: RunId, promote: Promote = "", discard: Discard = "") -> None:
    """Show the pictures that a run held back; publish or discard them."""
    from flows.review_run import review_run

    run_flow(review_run, "reviewing", output=output, run=run, promote=promote, discard=discard)
