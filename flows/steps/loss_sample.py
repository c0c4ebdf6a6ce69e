"""Choose the items of a fast run that are also made exact, so that the run can tell its loss."""

from __future__ import annotations

import numpy as np

from ace_tasks.plan.planned import Planned
from flows.steps.open_run import Run

_AT_MOST = 8
_ONE_IN = 4  # of a short run


def sample_to_compare(run: Run, planned: Planned) -> frozenset[str]:
    """Return the ids of a few items to do, spread over the plan; none if the run is not fast.

    The plan is sorted by adapter and shape. Rows of task background use no model and lose nothing.
    """
    if run.pixels.shortcuts is None:
        return frozenset()
    outline, positions = planned.outline, planned.positions_to_do()
    by_model = np.array([name != "background" for name in outline.task_names], bool)
    positions = positions[by_model[outline.tasks[positions]]]
    count = min(_AT_MOST, -(-len(positions) // _ONE_IN))
    chosen = [int(positions[n * len(positions) // count]) for n in range(count)]
    return frozenset(each.item_id for each in planned.items_at(chosen))
