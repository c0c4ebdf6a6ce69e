"""Measure a model on the procedural world, beside baselines that any model should beat."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from ace_tasks.evaluation.measure import MAX_EXAMPLES
from flows.options import param
from flows.steps.evaluate import finished, measure, open_evaluation
from flows.steps.open_run import untracked


@flow(
    name="evaluate",
    flow_run_name="evaluate {variant}",
    # Chunks run beside the main thread, which is the one that a cancel interrupts.
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def evaluate(
    variant: Annotated[
        str, *param("The model variant, such as mini, or the place of a variant.json.")
    ],
    output: Annotated[str, *param("Where tables and scores go: s3://bucket/prefix, or a folder.")],
    tasks: Annotated[
        str,
        *param("Tasks of the world, comma-separated, as in add,recolour. All: empty."),
    ] = "",
    examples: Annotated[
        int, *param("Held-back examples of each task.", ge=1, le=MAX_EXAMPLES)
    ] = 64,
    seed: Annotated[int, *param("Which examples: other seeds, other ones.", ge=0)] = 1,
    size_px: Annotated[
        int, *param("Side of the pictures, a multiple of 16; 0: the variant's.", ge=0)
    ] = 0,
    baselines: Annotated[
        bool,
        *param("Also measure what needs no training: copies, fills, random weights."),
    ] = True,
    accept_license: Annotated[
        bool,
        *param("I have read and accept the licence of the variant's weights (once)."),
    ] = False,
) -> State[Any]:
    """Measure a variant, and baselines, on held-back examples with exact answers.

    Ends `Completed` with its table. Cut short, the same run goes on where it was.
    """
    with open_evaluation(
        variant,
        output,
        tasks=tasks,
        examples=examples,
        seed=seed,
        size_px=size_px,
        with_baselines=baselines,
        accept_license=accept_license,
    ) as evaluation:
        for contender, chunk in evaluation.to_do():
            name = f"{contender.name} {chunk.name}"
            measure.submit(name, untracked(evaluation), untracked(contender), chunk).result()
        return finished(evaluation)
