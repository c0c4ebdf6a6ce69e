"""The commands `train` and `evaluate`: make and measure models."""

from __future__ import annotations

from typing import Annotated

from flows.cli.arguments import INPUTS, MEASURED, WORK
from flows.cli.terminal import run_flow
from flows.options.groups import described
from flows.options.models import MeasureOptions, TrainingInputs, TrainingWork
from flows.options.places import AcceptLicense, EvaluationOutput, Recipe, TrainingOutput, Variant


@described
def train(
    recipe: Recipe,
    output: TrainingOutput,
    /,
    *,
    inputs: Annotated[TrainingInputs, INPUTS] = TrainingInputs(),
    work: Annotated[TrainingWork, WORK] = TrainingWork(),
) -> None:
    """Train a variant by a recipe, from nothing or from another variant."""
    run_flow("train_ace", "training", **locals())


@described
def evaluate(
    variant: Variant,
    output: EvaluationOutput,
    /,
    *,
    measured: Annotated[MeasureOptions, MEASURED] = MeasureOptions(),
    accept_license: AcceptLicense = False,
) -> None:
    """Measure a variant, next to baselines, on held-out examples with exact answers."""
    run_flow("evaluate", "measuring", **locals())
