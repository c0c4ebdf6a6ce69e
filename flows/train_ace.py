"""Train a variant for editing catalogs, from nothing or from another variant."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State

from flows.options.models import TrainingInputs, TrainingWork
from flows.options.places import Recipe, TrainingOutput
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
from flows.ui.forms import form_flow


@form_flow("train-ace", "train {recipe}")
def train_ace(
    recipe: Recipe,
    output: TrainingOutput,
    inputs: TrainingInputs = TrainingInputs(),
    work: TrainingWork = TrainingWork(),
) -> State[Any]:
    """Train by a recipe: VAE, latents, denoiser. Then export, upload and show the variant.

    The run ends `Completed` with the variant, or `NotDoneYet` if it reached its time limit first.
    Start it again with the same recipe and output to continue.
    """
    with open_training(recipe, output, inputs, work) as training:
        with training.cluster():
            for stage in (fit_vae, encode_latents, fit_denoiser):
                if not stage.submit(training).result():
                    return stopped(training)
        variant = export_variant(training)
        samples = show_samples(training, variant)
        return finished(training, variant, samples)
