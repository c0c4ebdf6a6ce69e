"""Edit every picture of a prefix, table or product feed by one instruction.

On a schedule, each run edits the pictures that are new or changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.client.schemas.objects import State

from ace_tasks.catalog.files import Reject, open_catalog
from ace_tasks.catalog.restyle import Instruction, restyle_rows
from ace_tasks.catalog.sources.mask_files import open_masks
from ace_tasks.catalog.sources.pictures import pictures
from ace_tasks.catalog.sources.prefixes import buckets_of, check_apart, is_file, uris_of
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped, SourcePicture
from ace_tasks.runs.feed_note import FeedNote, sha256_of, write_note
from flows.options.feed import RestyleFeed
from flows.options.masking import RowMasks
from flows.options.pixels import RestylePixels
from flows.options.places import Mask, Output, Prompt, Source, Variant
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import execute_run
from flows.steps.open_run import Run, RunRequest, open_run, write_catalog
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
    check_apart(source=source, output=output, mask=mask)
    masking.check("mask", mask)
    feed.links()
    references = uris_of("reference", pixels.reference)
    instruction = Instruction(prompt, pixels.task, references, pixels.row_defaults(masking))
    instruction.check(mask)
    request = RunRequest(
        source,
        output,
        variant,
        pixels.settings(masking),
        review.settings(),
        run,
        buckets_of(source, mask, feed.links_to, *references),
    )
    with open_run(request) as opened:
        rows = _rows(opened, feed, instruction, mask)
        return execute_run(opened, review, write_catalog(opened, rows))


def _rows(
    run: Run, feed: RestyleFeed, instruction: Instruction, mask: str
) -> Iterator[GeneratedRow | Skipped | Reject]:
    place = run.place("source", run.catalog, feed, main_only=feed.main_only, once=True)
    if is_file(run.catalog):
        _note_feed(run, feed)
    masked = (each for each in pictures(place, run.sources) if isinstance(each, SourcePicture))
    with open_masks("mask", mask, run.sources, run.scratch, optional=True, masked=masked) as rule:
        yield from restyle_rows(pictures(place, run.sources), instruction, rule, feed.limit)


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
