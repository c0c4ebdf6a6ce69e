"""Train a variant that catalogs can be edited with: from nothing, or from another variant."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.options import param
from flows.steps.open_run import untracked
from flows.steps.train import (
    encode_latents,
    export_variant,
    finished,
    fit_denoiser,
    fit_vae,
    open_training,
    show_samples,
    stopped,
)


@flow(
    name="train-ace",
    flow_run_name="train {recipe}",
    # Stages run beside the main thread, which is the one that a cancel interrupts.
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def train_ace(
    recipe: Annotated[
        str, *param("A committed recipe, such as mini, or a file that ends in .json.")
    ],
    output: Annotated[
        str,
        *param(
            "s3://bucket/prefix for the variant; checkpoints, metrics and samples lie beside it."
        ),
    ],
    workers: Annotated[
        int, *param("Processes that share each step of the denoiser; one a GPU.", ge=1)
    ] = 1,
    threads: Annotated[
        int, *param("CPU threads of each; 0: the cores shared out among them.", ge=0)
    ] = 0,
    stop_after_minutes: Annotated[
        float,
        *param("Stop after as many; the same run then goes on. 0: until done.", ge=0),
    ] = 0,
    photos: Annotated[
        str,
        *param("A local folder of photographs that the VAE learns from, too. Or empty."),
    ] = "",
    start_from: Annotated[
        str,
        *param(
            "Start from this variant instead of what the recipe says: a name, a folder "
            "or s3://… with a variant.json."
        ),
    ] = "",
    catalog: Annotated[
        str,
        *param(
            "Learn from this catalog instead of what the recipe says: an edit catalog "
            "with a column `target`, the wanted picture."
        ),
    ] = "",
    accept_license: Annotated[
        bool, *param("I have read and accept the licence of that variant's weights.")
    ] = False,
) -> State[Any]:
    """Train a recipe: VAE, latents, denoiser; then export, upload and show the variant.

    Ends `Completed` with the variant; or `NotDoneYet`, a completed state, too, when it was told to
    stop before: start it again with the same recipe and output, and it goes on.
    """
    with open_training(
        recipe, output, workers, threads, stop_after_minutes, photos,
        start_from, catalog, accept_license,
    ) as training:  # fmt: skip
        with training.cluster():
            for stage in (fit_vae, encode_latents, fit_denoiser):
                if not stage.submit(untracked(training)).result():
                    return stopped(training)
        variant = export_variant(untracked(training))
        samples = show_samples(untracked(training), untracked(variant))
        return finished(training, variant, samples)
