"""Edit every row of a catalog file: the main flow."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from flows.options.masking import MaskOptions
from flows.options.pixels import CatalogPixels
from flows.options.places import Catalog, Output, Variant
from flows.options.review import ReviewOptions
from flows.options.run import RunOptions
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import execute_run
from flows.steps.open_run import RunRequest, open_run
from flows.ui.forms import form_flow
from flows.ui.names import run_name


@form_flow("edit-catalog", run_name("edit {catalog} with {variant}"), threads=MAX_SHARD_THREADS)
def edit_catalog(
    catalog: Catalog,
    output: Output,
    variant: Variant,
    pixels: CatalogPixels = CatalogPixels(),
    masking: MaskOptions = MaskOptions(),
    review: ReviewOptions = ReviewOptions(),
    run: RunOptions = RunOptions(),
) -> State[Any]:
    """Edit every row of a catalog that is not edited yet.

    The run ends `Completed`, or `FinishedWithFailures` if more than `max_failed` rows have no
    picture.
    """
    request = RunRequest(catalog, output, variant, pixels.settings(masking), review.settings(), run)
    with open_run(request) as opened:
        return execute_run(opened, review)
