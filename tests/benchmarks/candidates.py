"""The worth of several candidates of an item: how often the one with the best score is right.

    python -m tests.benchmarks.candidates
    python -m tests.benchmarks.candidates --examples 4 --candidates 4    a look

`mini`, on held-out examples of the world it learnt: whether a picture is right is measured there,
and scores know nothing of that. A picture is judged and scored as it would be published: what the
mask leaves alone is the original's.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ace_tasks.evaluation import scoring
from ace_tasks.evaluation.measure import Chunk
from ace_tasks.images import scores
from ace_tasks.model.ace import AceModel
from ace_tasks.model.sources import open_variant
from ace_tasks.settings import read_environment
from ace_tasks.specs import candidate_seeds
from ace_tasks.training.preview import answer
from ace_tasks.training.world.world_tasks import ALL_TASKS, Example


@dataclass(frozen=True)
class Judged:
    """A candidate's total score, and whether it is right."""

    total: float
    right: bool


def judged(example: Example, made: np.ndarray) -> Judged:
    outside = None
    if example.image is not None and example.mask is not None:
        kept = example.mask == 0
        if kept.any():
            outside = float(np.abs(made.astype(float) - example.image)[kept].mean())
        made = np.where(kept[..., None], example.image, made)
    inputs = scores.ScoreInputs(
        made=made,
        original=example.image,
        mask=example.mask,
        references=example.references,
        erased=example.repainting_scale >= 1,
    )
    found = scores.score(inputs, outside, example.prompt)
    return Judged(found.total, scoring.score(example, made).success)


def contests(model: AceModel, examples: int, candidates: int, seed: int) -> Iterator[list[Judged]]:
    """The candidates of each example, in the order of their numbers."""
    for task in ALL_TASKS:
        drawn = Chunk(task, 0, examples).draw(seed, model.variant.width_px)
        for number, example in drawn.items():
            pictures = (answer(model, example, s) for s in candidate_seeds(number, candidates))
            yield [judged(example, picture) for picture in pictures]
        print(f"{task}: done", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=20, help="of each task")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args(arguments)
    weights = read_environment().weights()
    model = AceModel.load(open_variant("mini", weights), weights, "cpu")
    found = list(contests(model, given.examples, given.candidates, given.seed))
    first = [each[0].right for each in found]
    kept = [max(each, key=lambda one: one.total).right for each in found]
    mean = [statistics.mean(one.right for one in each) for each in found]
    some = [any(one.right for one in each) for each in found]
    gains = [best - chance for best, chance in zip(kept, mean, strict=True)]
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    print(
        "\n| examples | candidates | first right | mean of all | kept | gain over the mean | one of them |"
    )
    print("|---|---|---|---|---|---|---|")
    shares = (100 * statistics.mean(each) for each in (first, mean, kept))
    cells = " | ".join(f"{each:.0f} %" for each in shares)
    print(
        f"| {len(found)} | {given.candidates} | {cells} "
        f"| {100 * statistics.mean(gains):+.1f} ± {100 * error:.1f} "
        f"| {100 * statistics.mean(some):.0f} % |"
    )


if __name__ == "__main__":
    main()
