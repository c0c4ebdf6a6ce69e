"""Many examples of the drawn world at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ace_tasks.training.world.draws import Split
from ace_tasks.training.world.world_tasks import ALL_TASKS, Example, draw_example


def examples(
    seed: int, count: int, size_px: int, *, split: Split = "train", tasks: Sequence[str] = ALL_TASKS
) -> Iterator[Example]:
    """The first `count` examples of a sequence."""
    return (draw_example(seed, n, size_px, split=split, tasks=tasks) for n in range(count))
