"""Pictures that a trained arm makes of held-out examples, by the same loop as an edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ace_tasks.evaluation.measure import Answered, Chunk
from ace_tasks.evaluation.scoring import score
from ace_tasks.model import weights
from ace_tasks.model.ace import AceModel
from ace_tasks.model.text import add_special_tokens
from ace_tasks.training import stages
from ace_tasks.training.loop import Loop
from ace_tasks.training.preview import example_edit
from ace_tasks.training.recipe import Recipe, describe
from ace_tasks.training.small import Tokenizers
from ace_tasks.training.world.grammar import VOCABULARY
from ace_tasks.training.world.world_tasks import Example
from tests.benchmarks.ablation.arms import Arm

_SEED = 1  # of the examples; their noise is numbered like them, the same for all arms
_BATCH = 16


def load(arm: Arm, recipe: Recipe, work: Path, loop: Loop) -> AceModel:
    """The averaged weights of a training that is done, as a model to edit with."""
    model = arm.model(recipe)
    model.load_state_dict(stages.average(loop))
    model.eval()
    assert model.clip is not None
    assert model.t5 is not None
    tokenizers = Tokenizers.make(recipe.small, VOCABULARY)
    variant = describe(recipe, None, model.transformer)
    add_special_tokens(tokenizers.t5, model.t5, variant.route)
    parts = weights.Parts(
        model.transformer,
        stages.load_vae(work),
        model.clip,
        model.t5,
        tokenizers.clip,
        tokenizers.t5,
    )
    return AceModel(variant, parts, "cpu", variant.identity())


def examples(task: str, count: int, size_px: int) -> dict[int, Example]:
    """Number → held-back example, the first `count` of a task."""
    return Chunk(task, 0, count).draw(_SEED, size_px)


def answer(model: AceModel, task: str, count: int) -> list[Answered]:
    """Held-back examples of a task, the model's pictures and their scores."""
    shown = examples(task, count, model.variant.width_px)
    identity = model.variant.identity()
    edits = {number: example_edit(example, number, identity) for number, example in shown.items()}
    found = []
    for numbers in _batches(list(shown)):
        jobs = [job for n in numbers for job in edits[n].jobs()]
        for n, canvas in zip(numbers, model.generate(jobs), strict=True):
            output = edits[n].finish(canvas).rgb
            found.append(Answered(shown[n], output, score(shown[n], output)))
    return found


def _batches(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[first : first + _BATCH] for first in range(0, len(numbers), _BATCH)]
