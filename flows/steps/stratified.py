"""Choose a few rows of a plan, so that each task and each part of the catalog is among them."""

from __future__ import annotations

from array import array

import numpy as np

from ace_tasks.plan.outline import Outline


def stratified(outline: Outline, positions: np.ndarray, count: int) -> set[int]:
    """Return `count` of these positions, shared as evenly among the tasks as their numbers allow.

    Those of a task are spread over the plan, which is sorted by adapter and shape.
    """
    places: dict[str, array[int]] = {}
    for position in positions.tolist():
        places.setdefault(outline.task_of(position), array("q")).append(position)
    chosen: set[int] = set()
    left = count
    for number, of_task in enumerate(sorted(places.values(), key=len)):  # the smallest first
        share = min(len(of_task), -(-left // (len(places) - number)))
        chosen.update(of_task[n * len(of_task) // share] for n in range(share))
        left -= share
    return chosen
