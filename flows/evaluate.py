"""Measure a model on the procedural world, next to baselines that any model should beat."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from flows.options.models import MeasureOptions
from flows.options.places import AcceptLicense, EvaluationOutput, Variant
from flows.steps.evaluate import finished, measure, open_evaluation
from flows.ui.forms import form_flow


@form_flow("evaluate", "evaluate {variant}")
def evaluate(
    variant: Variant,
    output: EvaluationOutput,
    measured: MeasureOptions = MeasureOptions(),
    accept_license: AcceptLicense = False,
) -> State[Any]:
    """Measure a variant and baselines on held-out examples with exact answers.

    The run ends `Completed`, with a table of scores. If it is cut short, starting it again
    continues it.
    """
    with open_evaluation(variant, output, measured, accept_license=accept_license) as evaluation:
        for contender, chunk in evaluation.to_do():
            measure.submit(evaluation, contender, chunk).result()
        return finished(evaluation)
