"""The commands `compare`, `edit`, `restyle`, `try-on`, `retry` and `review`: make pictures, decide.

The arguments of a command are the parameters of its flow, with the same names and defaults.
"""

from __future__ import annotations

from typing import Annotated

from flows.cli.arguments import ALTERNATIVES, ANY_TEXT, FEED, MASKING, PIXELS, REVIEW, RUN, Json
from flows.cli.terminal import run_flow
from flows.options.comparison import ComparisonOptions, WholeRunName
from flows.options.feed import RestyleFeed, TryOnFeed
from flows.options.groups import described
from flows.options.masking import MaskOptions, RowMasks, TryOnMasks
from flows.options.pixels import CatalogPixels, RestylePixels, TryOnPixels
from flows.options.places import (
    Catalog,
    Codes,
    Decisions,
    Discard,
    Garments,
    Mask,
    Output,
    People,
    PersonMasks,
    Promote,
    Prompt,
    RunId,
    Source,
    TryOnPrompt,
    Variant,
)
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions, WorkOptions


@described
def edit(
    catalog: Catalog,
    output: Output,
    /,
    *,
    variant: Variant,
    pixels: Annotated[CatalogPixels, PIXELS] = CatalogPixels(),
    masking: Annotated[MaskOptions, MASKING] = MaskOptions(),
    review: Annotated[ReviewOptions, REVIEW] = ReviewOptions(),
    run: Annotated[RunOptions, RUN] = RunOptions(),
    as_json: Json = False,
) -> None:
    """Edit every row of a catalog that is not edited yet."""
    run_flow("edit_catalog", "editing", **locals())


@described
def restyle(
    source: Source,
    output: Output,
    /,
    *,
    variant: Variant,
    prompt: Annotated[Prompt, ANY_TEXT] = "",
    mask: Mask = "none",
    feed: Annotated[RestyleFeed, FEED] = RestyleFeed(),
    pixels: Annotated[RestylePixels, PIXELS] = RestylePixels(),
    masking: Annotated[RowMasks, MASKING] = RowMasks(),
    review: Annotated[ReviewOptions, REVIEW] = ReviewOptions(),
    run: Annotated[RunOptions, RUN] = RunOptions(),
    as_json: Json = False,
) -> None:
    """Edit every picture of a prefix, table or product feed by one instruction."""
    run_flow("restyle_catalog", "restyling", **locals())


@described
def compare(
    source: Source,
    output: Output,
    /,
    *,
    variant: Variant,
    prompt: Annotated[Prompt, ANY_TEXT] = "",
    mask: Mask = "none",
    whole_run: WholeRunName = "restyle",
    alternatives: Annotated[ComparisonOptions, ALTERNATIVES] = ComparisonOptions(),
    feed: Annotated[RestyleFeed, FEED] = RestyleFeed(),
    pixels: Annotated[RestylePixels, PIXELS] = RestylePixels(),
    masking: Annotated[RowMasks, MASKING] = RowMasks(),
    run: Annotated[RunOptions, RUN] = RunOptions(),
    as_json: Json = False,
) -> None:
    """Edit a few pictures in two to six ways, and show them side by side."""
    run_flow("compare", "comparing", **locals())


@described
def try_on(
    people: People,
    garments: Garments,
    output: Output,
    /,
    *,
    variant: Variant,
    masks: PersonMasks,
    prompt: Annotated[TryOnPrompt, ANY_TEXT] = "the person wears this garment",
    feed: Annotated[TryOnFeed, FEED] = TryOnFeed(),
    pixels: Annotated[TryOnPixels, PIXELS] = TryOnPixels(),
    masking: Annotated[TryOnMasks, MASKING] = TryOnMasks(),
    review: Annotated[ReviewOptions, REVIEW] = ReviewOptions(),
    run: Annotated[RunOptions, RUN] = RunOptions(),
    as_json: Json = False,
) -> None:
    """Put garments on people: every garment on every person, or in pairs."""
    run_flow("try_on_batch", "trying on", **locals())


@described
def retry(
    output: Output,
    failed_run: RunId,
    /,
    *,
    codes: Codes = "",
    run: Annotated[WorkOptions, RUN] = WorkOptions(),
    as_json: Json = False,
) -> None:
    """Try the failed rows of a run again."""
    run_flow("retry_failed", "editing", **locals())


@described
def review(
    output: Output,
    run: RunId,
    /,
    *,
    promote: Promote = "",
    discard: Discard = "",
    decisions: Decisions = "",
) -> None:
    """Show the pictures that a run held back, and publish or discard them."""
    run_flow("review_run", "reviewing", plans=False, **locals())
