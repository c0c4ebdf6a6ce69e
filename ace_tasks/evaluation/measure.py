"""Measure one contender's answers in chunks of examples of one task. Each chunk is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from ace_tasks.errors import SettingsError
from ace_tasks.evaluation.scoring import AnswerScores, score
from ace_tasks.training.world.world_tasks import ALL_TASKS, Example, draw_example

MAX_EXAMPLES = 10_000  # for each task

Answer = Callable[[Example, int], np.ndarray]
"""A function from an example and its number to a picture, uint8 (H, W, 3), of the target's size."""


@dataclass(frozen=True, eq=False)
class Answered:
    """An example, the picture that a contender made for it, and its scores."""

    example: Example
    picture: np.ndarray
    scores: AnswerScores


def evaluate_model(answer: Answer, examples: Mapping[int, Example]) -> list[Answered]:
    """Answer and score each example. Raises ValueError for a picture of another size."""
    return [
        Answered(example, picture, score(example, picture))
        for number, example in examples.items()
        for picture in (answer(example, number),)
    ]


@dataclass(frozen=True)
class Chunk:
    """The examples `first` up to `first + count` of one task."""

    task: str
    first: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.first:05}-{self.count}"

    def draw(self, seed: int, size_px: int) -> dict[int, Example]:
        """Return number → example, from the split that is held out of training."""
        # Each task gets its own scenes, so that a few hard scenes do not affect all tasks.
        start = ALL_TASKS.index(self.task) * MAX_EXAMPLES
        return {
            number: draw_example(seed, start + number, size_px, split="test", tasks=(self.task,))
            for number in range(self.first, self.first + self.count)
        }


def parse_tasks(text: str) -> tuple[str, ...]:
    """Return the tasks in a text such as `add,inpaint`, in the world's order.

    An empty text means all tasks. Raises SettingsError for an unknown task.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ALL_TASKS:
            raise SettingsError(f"tasks: accepted: {', '.join(ALL_TASKS)}; given {name!r}")
    return tuple(name for name in ALL_TASKS if name in names or not names)


def chunks(tasks: Sequence[str], examples: int, size: int) -> list[Chunk]:
    """Return `examples` of each task in chunks of `size`. A task's last chunk may be smaller."""
    return [
        Chunk(task, first, min(size, examples - first))
        for task in tasks
        for first in range(0, examples, size)
    ]


class StoredResult(BaseModel):
    """A result that is stored as JSON. An infinite PSNR is stored as a string."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Measured(StoredResult):
    """The scores of each picture of one contender's chunk, in order."""

    scores: list[AnswerScores]
    seconds: float
