"""Edit every picture of a prefix, table or product feed by one instruction.

On a schedule, each run edits the pictures that are new or changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.client.schemas.objects import State

from ace_tasks.catalog.files import Reject, open_catalog
from ace_tasks.catalog.sources.prefixes import is_file
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped
from ace_tasks.runs.feed_note import FeedNote, sha256_of, write_note
from flows.options.feed import RestyleFeed
from flows.options.masking import RowMasks
from flows.options.pixels import RestylePixels
from flows.options.places import Mask, Output, Prompt, Source, Variant
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import execute_run
from flows.steps.open_run import Run, open_run, write_catalog
from flows.steps.whole_run import RestyleRun
from flows.ui.forms import form_flow
from flows.ui.names import run_name


@form_flow(
    "restyle-catalog", run_name("restyle {source} with {variant}"), threads=MAX_SHARD_THREADS
)
def restyle_catalog(
    source: Source,
    output: Output,
    variant: Variant,
    prompt: Prompt = "",
    mask: Mask = "none",
    feed: RestyleFeed = RestyleFeed(),
    pixels: RestylePixels = RestylePixels(),
    masking: RowMasks = RowMasks(),
    review: ReviewOptions = ReviewOptions(),
    run: RunOptions = RunOptions(),
) -> State[Any]:
    """Edit every picture of a source by one instruction, unless it is edited already.

    A picture is known by its content. New and changed pictures are edited; a renamed one gets its
    result without an edit. Another instruction edits all of them again.
    """
    whole = RestyleRun(
        source=source,
        output=output,
        variant=variant,
        prompt=prompt,
        mask=mask,
        feed=feed,
        pixels=pixels,
        masking=masking,
        review=review,
        run=run,
    )
    with open_run(whole.request()) as opened:
        rows = _rows(opened, whole)
        return execute_run(opened, review, write_catalog(opened, rows))


def _rows(run: Run, whole: RestyleRun) -> Iterator[GeneratedRow | Skipped | Reject]:
    if is_file(run.catalog):
        _note_feed(run, whole.feed)
    yield from whole.rows(run)


def _note_feed(run: Run, feed: RestyleFeed) -> None:
    """Write down which feed the run reads, so that `write_feed` finds it and sees if it changed."""
    with open_catalog(run.catalog, run.sources) as file:
        note = FeedNote(
            uri=run.catalog,
            sha256=sha256_of(file),
            links_from=feed.links_from,
            links_to=feed.links_to,
            encoding=feed.encoding,
            main_only=feed.main_only,
        )
    write_note(run.outputs, run.output, run.run_id, note)
