"""Edit a few pictures in two to six ways, and show them side by side, before paying for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect.client.schemas.objects import State

from flows.options.comparison import ComparisonOptions, WholeRunName
from flows.options.feed import RestyleFeed
from flows.options.masking import RowMasks
from flows.options.pixels import RestylePixels
from flows.options.places import Mask, Output, Prompt, Source, Variant
from flows.options.run import RunOptions
from flows.steps.comparison import compare_runs, whole_runs
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.open_run import open_run
from flows.steps.whole_run import RestyleRun, catalog_run
from flows.ui.forms import form_flow
from flows.ui.names import run_name


@form_flow("compare", run_name("compare ways to edit {source}"), threads=MAX_SHARD_THREADS)
def compare(
    source: Source,
    output: Output,
    variant: Variant,
    prompt: Prompt = "",
    mask: Mask = "none",
    whole_run: WholeRunName = "restyle",
    alternatives: ComparisonOptions = ComparisonOptions(),
    feed: RestyleFeed = RestyleFeed(),
    pixels: RestylePixels = RestylePixels(),
    masking: RowMasks = RowMasks(),
    run: RunOptions = RunOptions(),
) -> State[Any]:
    """Edit a few pictures in two to six ways, and show them side by side with scores and prices.

    The alternatives differ from the other parameters, and from each other, in what they name. A run
    of the whole catalog as one of them finds its pictures done.
    """
    base = RestyleRun(
        source=source,
        output=output,
        variant=variant,
        prompt=prompt,
        mask=mask,
        feed=feed,
        pixels=pixels,
        masking=masking,
        run=run,
    )
    named = alternatives.alternatives()
    wholes = whole_runs(base if whole_run == "restyle" else catalog_run(base), named)
    first = next(iter(wholes.values())).request()
    with open_run(replace(first, options=run)) as opened:
        return compare_runs(opened, named, wholes, alternatives.rows)
