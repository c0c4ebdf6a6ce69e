"""Show the pictures that a run held back, and publish or discard them."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from flows.options.places import Decisions, Discard, Output, Promote, RunId
from flows.steps.review import decide, ending, find_held, read_decisions, show
from flows.ui.forms import form_flow


@form_flow("review-run", "review {run}")
def review_run(
    output: Output,
    run: RunId,
    promote: Promote = "",
    discard: Discard = "",
    decisions: Decisions = "",
) -> State[Any]:
    """Show the pictures that wait, with the reasons; publish the promoted, discard the discarded.

    Without a decision nothing changes. All decisions are checked before the first is carried out.
    If that was cut short, give them again.
    """
    run_held = find_held(output.rstrip("/"), run)
    decided = read_decisions(run_held, promote, discard, decisions)
    held = decide(run_held, decided)
    report = show(run_held, held)
    return ending(run_held, decided, held, report)
