"""Training one arm with one seed.

    work/latents/           the training set, encoded once for all arms
    work/<arm>-<seed>/      checkpoint.pt, metrics.jsonl

A training that was cut goes on from its checkpoint.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ace_tasks.evaluation.measure import Chunk
from ace_tasks.training import latents, objective, stages
from ace_tasks.training.keeping import read_metrics
from ace_tasks.training.latents import DataSettings, Latents
from ace_tasks.training.loop import Loop
from ace_tasks.training.objective import Batches, ObjectiveSettings
from ace_tasks.training.recipe import Recipe
from ace_tasks.training.world.world_tasks import STAGE_1_TASKS, TASKS
from tests.benchmarks.ablation.arms import Arm

_HELD_BACK_SEED = 40


def tasks_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the tasks that a recipe learns."""
    assert isinstance(recipe.data, DataSettings)
    weights = recipe.data.task_weights or {}
    return tuple(name for name, task in TASKS.items() if weights.get(name, task.weight))


def size_px(recipe: Recipe) -> int:
    """Return the longest side of its pictures."""
    assert isinstance(recipe.data, DataSettings)
    return max(recipe.data.sizes_px)


def encode(recipe: Recipe, work: Path) -> list[Latents]:
    """The training set; what is there is not made again."""
    if not (work / stages.VAE).exists():
        work.mkdir(parents=True, exist_ok=True)
        stages.take_vae(recipe, work)
    for number in latents.missing(work / stages.LATENTS, recipe.data):
        stages.encode_chunk(recipe, work, number)
    return latents.load(work / stages.LATENTS, recipe.data)


def encode_held_back(recipe: Recipe, work: Path, count: int) -> dict[str, Latents]:
    """Task → examples that are held back from training, as training would show them."""
    assert isinstance(recipe.data, DataSettings)
    settings = recipe.data.model_copy(update={"empty_prompts": 0.0})
    encoder, side = stages.make_encoder(recipe, work), size_px(recipe)
    return {
        task: Latents.join(
            [
                latents.encode(example, number, settings, encoder)
                for number, example in Chunk(task, 0, count).draw(_HELD_BACK_SEED, side).items()
            ]
        )
        for task in tasks_of(recipe)
    }


# ---------------------------------------------------------------- one training


def train(
    arm: Arm,
    recipe: Recipe,
    shapes: Sequence[Latents],
    held_back: Mapping[str, Latents],
    folder: Path,
) -> Loop:
    """Train to the last step of the arm's own recipe. The metrics have the loss of the averaged model
    on held-back examples, and CPU seconds, which other processes lengthen less than the clock's.
    """
    model = arm.model(recipe)
    loop = Loop(model, recipe.loop, folder / "checkpoint.pt")
    loop.resume()
    if loop.step >= recipe.loop.steps:
        return loop
    batches = Batches(shapes, recipe.objective, recipe.loop.steps)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = folder / "metrics.jsonl"
    before = [each for each in read_metrics(metrics) if each["step"] <= loop.step]
    # What was spent since the last line is not told anywhere: as much a step as before it.
    spent_s = before[-1]["cpu_s"] * loop.step / before[-1]["step"] if before else 0.0
    began_s = time.process_time()

    def loss(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return objective.loss(model, *batches.take(step), recipe.objective)

    def on_log(step: int, numbers: dict[str, float]) -> None:
        nonlocal spent_s, began_s
        spent_s += time.process_time() - began_s
        losses = held_back_loss(loop.averaged.module, held_back)
        line = {"step": step, "cpu_s": spent_s, **numbers, **losses}
        with metrics.open("a") as file:
            file.write(json.dumps({key: round(value, 5) for key, value in line.items()}) + "\n")
        began_s = time.process_time()

    loop.run(loss, on_log)
    return loop


@torch.no_grad()
def held_back_loss(model: torch.nn.Module, held_back: Mapping[str, Latents]) -> dict[str, float]:
    """L_tar of each task, as `held_<task>`, and the mean of tasks without and with references, as
    `0-ref` and `N-ref`; noise and its levels are always the same, spread evenly.
    """
    found = {}
    for task, batch in held_back.items():
        noise = torch.randn(batch.target_BCHW.shape, generator=torch.Generator().manual_seed(0))
        u = (torch.arange(len(batch)) + 0.5) / len(batch)
        sigma = torch.sigmoid(torch.special.ndtri(u))  # the quantiles of what training draws
        _, numbers = objective.loss(model, batch, noise, sigma, ObjectiveSettings())
        found[f"held_{task}"] = float(numbers["target"])
    for name, without in (("0-ref", True), ("N-ref", False)):
        of = [found[f"held_{task}"] for task in held_back if (task in STAGE_1_TASKS) == without]
        found[name] = statistics.fmean(of)
    return found
