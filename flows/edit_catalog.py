"""Edit every row of a catalog file: the main flow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from ace_tasks.price import Budget
from ace_tasks.settings import ReviewSettings
from ace_tasks.specs import AutoMask, MaskRules, PasteSettings, PixelSettings
from flows.canary import Canary
from flows.conduct import Conduct, conduct
from flows.edit import MAX_SHARD_THREADS
from flows.form import described
from flows.run import open_run, plan_catalog, untracked

_PASTE = PasteSettings()


@described
@flow(
    name="edit-catalog",
    flow_run_name="edit {catalog} with {variant}",
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARD_THREADS),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def edit_catalog(
    catalog: Annotated[
        str, Field(description="The catalog: JSONL, CSV or Parquet, at s3:// or a local path.")
    ],
    output: Annotated[str, Field(description="Where pictures and records go: s3://bucket/prefix.")],
    variant: Annotated[
        str, Field(description="The model variant, such as toy, or the place of a variant.json.")
    ],
    geometry: Annotated[
        Literal["catalog", "reference"],
        Field(
            description="catalog: sizes are kept, and all outside a mask. reference: as ACE++'s "
            "own code does it."
        ),
    ] = "catalog",
    feather: Annotated[
        float,
        Field(
            ge=0,
            le=0.25,
            description="Width of the blend at a mask's edge, in sides of the picture.",
        ),
    ] = _PASTE.feather,
    crop_to_mask: Annotated[
        bool, Field(description="Work on a window where the mask is small in a large picture.")
    ] = _PASTE.crop_to_mask,
    candidates: Annotated[
        int,
        Field(
            ge=1, le=16, description="Pictures to try for a row that says none; the best is kept."
        ),
    ] = 1,
    keep_candidates: Annotated[
        bool, Field(description="Also store those that were not chosen, under candidates/.")
    ] = False,
    review_below: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Hold a picture back for review if its total score is lower; 0: none is. "
            "A blank one always waits.",
        ),
    ] = 0.0,
    auto_mask: Annotated[
        str,
        Field(
            description='How the mask "auto" is made. grabcut: what stands out in the middle. '
            "border: all that the colour of the picture's rim does not reach. model: what the "
            "worker's segmentation model calls by the row's label. Empty: such rows are rejected."
        ),
    ] = "",
    allow_empty_masks: Annotated[
        bool,
        Field(description="Publish a picture as it is where its mask selects nothing; else fail."),
    ] = False,
    allow_full_masks: Annotated[
        bool,
        Field(description="Repaint all of a picture where its mask selects it all; else fail."),
    ] = False,
    preset: Annotated[
        str,
        Field(
            description="Size and background of rows that name none, such as white-2000. Empty: "
            "a picture keeps its own."
        ),
    ] = "",
    quality: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="JPEG, AVIF and WebP quality of rows that say none. 0: 95, and WebP is "
            "lossless.",
        ),
    ] = 0,
    strict: Annotated[
        bool, Field(description="Stop before any GPU work if a row is no valid spec.")
    ] = False,
    max_failed: Annotated[
        int, Field(ge=0, description="How many rejects and failures a completed run may have.")
    ] = 0,
    retry_failures: Annotated[
        bool, Field(description="Try again what failed for good in an earlier run.")
    ] = False,
    dry_run: Annotated[
        bool, Field(description="Say what the run would do and take, and end there.")
    ] = False,
    max_replica_hours: Annotated[
        float,
        Field(
            ge=0,
            description="Stop the run if it would take, or has taken, more hours of replicas (GPU-"
            "hours, where each has a GPU); 0: no limit.",
        ),
    ] = 0.0,
    max_cost: Annotated[
        float,
        Field(
            ge=0,
            description="The same in money, where the worker knows what an hour costs; 0: no limit.",
        ),
    ] = 0.0,
    canary: Annotated[
        int,
        Field(
            ge=0,
            le=200,
            description="Make so many pictures first, show them, and wait for your word before the "
            "others are made; 0: make all.",
        ),
    ] = 0,
    canary_wait_hours: Annotated[
        float, Field(gt=0, le=720, description="How long that word may take.")
    ] = 72.0,
    replicas: Annotated[
        int, Field(ge=0, description="Model replicas; 0: one for each GPU, or one on a CPU.")
    ] = 0,
    shard_size: Annotated[
        int, Field(ge=1, le=10_000, description="Rows in one task run of the UI.")
    ] = 32,
    accept_license: Annotated[
        bool,
        Field(description="I have read and accept the licence of the variant's weights (once)."),
    ] = False,
    allow_unguarded_writes: Annotated[
        bool,
        Field(description="Go on with a store that ignores If-None-Match; runs may then collide."),
    ] = False,
) -> State[Any]:
    """Edit every row of a catalog that is not edited yet.

    Ends `Completed`, or `FinishedWithFailures` when more than `max_failed` rows have no picture.
    """
    with open_run(
        catalog,
        output,
        variant,
        PixelSettings(
            geometry=geometry,
            paste=PasteSettings(feather=feather, crop_to_mask=crop_to_mask),
            candidates=candidates,
            masks=MaskRules(allow_empty=allow_empty_masks, allow_full=allow_full_masks),
            auto_mask=AutoMask.named(auto_mask),
            preset=preset or None,
            quality=quality or None,
        ),
        ReviewSettings(below=review_below, keep_candidates=keep_candidates),
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        return conduct(
            run,
            lambda changes: plan_catalog(untracked(run), strict, retry_failures, changes=changes),
            Conduct(
                max_failed=max_failed,
                replicas=replicas,
                shard_size=shard_size,
                dry_run=dry_run,
                budget=Budget(
                    max_replica_hours=max_replica_hours,
                    max_cost=max_cost,
                    price_per_hour=run.environment.price_per_hour,
                ),
                canary=Canary(items=canary, wait_hours=canary_wait_hours),
            ),
        )
