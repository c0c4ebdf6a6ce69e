"""Show the pictures that a run held back; publish or discard them."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from flows.options.places import Discard, Output, Promote, RunId
from flows.steps.review import decide, ending, find_held, parse_decisions, show
from flows.ui.forms import form_flow


@form_flow("review-run", "review {run}")
def review_run(
    output: Output, run: RunId, promote: Promote = "", discard: Discard = ""
) -> State[Any]:
    """Show what waits, with its reasons; publish what is promoted, and forget what is discarded.

    Without a decision nothing changes. A decision that was cut short is given again.
    """
    run_held = find_held(output.rstrip("/"), run)
    decisions = parse_decisions(run_held.rows, promote, discard)
    held = decide(run_held, decisions)
    report = show(run_held, held)
    return ending(run_held, decisions, held, report)
