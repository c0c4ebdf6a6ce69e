"""Show the pictures that a run held back, and publish or discard them."""

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
    """Show the pictures that wait, with the reasons; publish the promoted, discard the discarded.

    Without a decision nothing changes. If a decision was cut short, give it again.
    """
    run_held = find_held(output.rstrip("/"), run)
    decisions = parse_decisions(run_held.rows, promote, discard)
    held = decide(run_held, decisions)
    report = show(run_held, held)
    return ending(run_held, decisions, held, report)
