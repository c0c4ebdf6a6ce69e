"""What is measured at once, and kept: a chunk of examples of one task, answered by one contender."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from ace_tasks.errors import SettingsError
from ace_tasks.evaluation.scoring import AnswerScores, score
from ace_tasks.training.world.world_tasks import ALL_TASKS, Example, draw_example

MAX_EXAMPLES = 10_000  # of one task

Answer = Callable[[Example, int], np.ndarray]
"""An example and its number → a picture, uint8 (H, W, 3), of the target's size."""


@dataclass(frozen=True, eq=False)
class Answered:
    """An example, the picture that was made of it, and how good that is."""

    example: Example
    picture: np.ndarray
    scores: AnswerScores


def evaluate_model(answer: Answer, examples: Mapping[int, Example]) -> list[Answered]:
    """Have each example answered and measured. Raises ValueError for a picture of another size."""
    return [
        Answered(example, picture, score(example, picture))
        for number, example in examples.items()
        for picture in (answer(example, number),)
    ]


# ---------------------------------------------------------------- chunks


@dataclass(frozen=True)
class Chunk:
    """Examples `first` up to `first + count` of one task."""

    task: str
    first: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.first:05}-{self.count}"

    def draw(self, seed: int, size_px: int) -> dict[int, Example]:
        """Number → example; of the split that is held back from training."""
        # Scenes of its own for each task: else all tasks would stumble over the same ones.
        start = ALL_TASKS.index(self.task) * MAX_EXAMPLES
        return {
            number: draw_example(seed, start + number, size_px, split="test", tasks=(self.task,))
            for number in range(self.first, self.first + self.count)
        }


def parse_tasks(text: str) -> tuple[str, ...]:
    """`add,inpaint` → those tasks, in the world's order; empty: all. Raises SettingsError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ALL_TASKS:
            raise SettingsError(f"tasks: accepted: {', '.join(ALL_TASKS)}; given {name!r}")
    return tuple(name for name in ALL_TASKS if name in names or not names)


def chunks(tasks: Sequence[str], examples: int, size: int) -> list[Chunk]:
    """`examples` of each task, in chunks of `size`, the last one of a task with what is left."""
    return [
        Chunk(task, first, min(size, examples - first))
        for task in tasks
        for first in range(0, examples, size)
    ]


class StoredResult(BaseModel):
    """What is kept as JSON. A PSNR may be infinite, for which JSON has a word only."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Measured(StoredResult):
    """One contender's chunk: the scores of each picture, in order."""

    scores: list[AnswerScores]
    seconds: float
