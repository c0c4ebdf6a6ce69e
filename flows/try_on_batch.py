"""Put garments on people: every garment on every person, or in pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect.client.schemas.objects import State

from ace_tasks.catalog.sources.prefixes import buckets_of, check_apart
from ace_tasks.catalog.try_on import Batch
from ace_tasks.store import is_s3
from flows.options.feed import TryOnFeed
from flows.options.masking import TryOnMasks
from flows.options.pixels import TryOnPixels
from flows.options.places import Garments, Output, People, PersonMasks, TryOnPrompt, Variant
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import execute_run
from flows.steps.open_run import RunRequest, open_run, write_catalog
from flows.steps.preflight import price_of
from flows.ui.forms import form_flow
from flows.ui.names import run_name


@form_flow(
    "try-on-batch",
    run_name("try {garments} on {people} with {variant}"),
    threads=MAX_SHARD_THREADS,
)
def try_on_batch(
    people: People,
    garments: Garments,
    output: Output,
    variant: Variant,
    masks: PersonMasks,
    prompt: TryOnPrompt = "the person wears this garment",
    feed: TryOnFeed = TryOnFeed(),
    pixels: TryOnPixels = TryOnPixels(),
    masking: TryOnMasks = TryOnMasks(),
    review: ReviewOptions = ReviewOptions(),
    run: RunOptions = RunOptions(),
) -> State[Any]:
    """Make a picture of each pair of a person and a garment that has none yet.

    The pairs are counted first. If there are more than `max_pairs`, nothing is made, and the error
    says what they would take.
    """
    check_apart(people=people, garments=garments, masks=masks, output=output)
    masking.check("masks", masks)
    feed.links()
    request = RunRequest(
        # A local table may name local files; one on S3 may not.
        people if is_s3(garments) else garments,
        output,
        variant,
        pixels.settings(masking),
        review.settings(),
        run,
        buckets_of(people, garments, masks, feed.links_to),
    )
    with open_run(request) as opened:
        batch = Batch(
            opened.place("people", people, feed),
            opened.place("garments", garments, feed),
            masks,
            prompt,
            feed.pairing,
            feed.pairs,
            feed.max_pairs,
            feed.limit,
            pixels.row_defaults(masking),
            feed.encoding,
        )
        rows = batch.rows(opened.sources, opened.scratch, partial(price_of, opened))
        return execute_run(opened, review, write_catalog(opened, rows))
