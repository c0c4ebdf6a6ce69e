"""The arms of the comparison: a recipe, and one thing changed in it at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ace_tasks.training.recipe import Recipe
from ace_tasks.training.small import Tokenizers, Trained
from ace_tasks.training.world.grammar import VOCABULARY
from tests.benchmarks.ablation.sequence import SequenceTransformer

_MODEL_SEED, _BATCH_SEED = 1000, 2000  # of the first training of each arm


@dataclass(frozen=True)
class Arm:
    """One way to train. `sequence`: condition tokens of their own (`SequenceTransformer`)."""

    name: str
    description: str
    objective: dict[str, Any] = field(default_factory=dict)
    sequence: bool = False
    same_seconds: bool = False  # fewer steps, that take as long as the paper's way

    def recipe(self, base: Recipe, seed: int, steps: int) -> Recipe:
        """Return the arm's recipe. `seed` draws the first weights, the batches and their noise."""
        seeds = {"seed": _BATCH_SEED + seed}
        return base.model_copy(
            update={
                "name": f"{base.name}-{self.name}-{seed}",
                "small": base.small.model_copy(update={"seed": _MODEL_SEED + seed}),
                "objective": base.objective.model_copy(update=self.objective | seeds),
                "loop": base.loop.model_copy(update={"steps": steps}),
            }
        )

    def model(self, recipe: Recipe) -> Trained:
        """Make a new model. With one seed, every arm has the same numbers."""
        model = Trained.make(recipe.small, Tokenizers.make(recipe.small, VOCABULARY))
        if self.sequence:
            with torch.device("meta"):
                other = SequenceTransformer.from_config(model.transformer.config)
            other.load_state_dict(model.transformer.state_dict(), assign=True)
            model.transformer = other
        return model


PAPER = Arm("paper", "two stages, channels, L_ref")
ARMS = (
    PAPER,
    Arm("one-stage", "all tasks from the first step", {"stage_1_share": 0.0}),
    Arm("no-l-ref", "the reference is not to be redrawn", {"reference_weight": 0.0}),
    Arm("sequence", "condition in tokens of its own, equal steps", sequence=True),
    Arm("sequence-s", "the same, equal seconds", sequence=True, same_seconds=True),
)
