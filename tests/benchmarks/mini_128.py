"""Train `mini` further, for pictures of 128 px, in a few minutes of one GPU, and score it.

    python -m tests.benchmarks.mini_128 --minutes 8 --out out/mini-128
    python -m tests.benchmarks.mini_128 --device cpu --minutes 2 --batch 8 --examples 2 --out out/try

The CPUs draw and encode examples for a fifth of the time. Then the steps that fit into what is left
are counted on a few steps of trial, and the schedule is made for as many. The folder gets:

    variant/       the trained variant, with the recipe as it was run in its training.json
    metrics.jsonl  one line for each logged step; curves.png shows them
    scores.json    the machine, the seconds of each part, the scores, and whether they meet the goals

Neither Prefect nor Ray nor a store is used.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# A machine without a network must not wait for the hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from ace_tasks.evaluation import measure
from ace_tasks.evaluation.scoring import AnswerScores
from ace_tasks.model import places, sources
from ace_tasks.model.ace import AceModel
from ace_tasks.replica import runtime_info
from ace_tasks.settings import WeightsSettings
from ace_tasks.training import curve, latents, objective, stages
from ace_tasks.training.export import export
from ace_tasks.training.latents import DataSettings
from ace_tasks.training.loop import Loop, LoopSettings
from ace_tasks.training.objective import Batches, ObjectiveSettings
from ace_tasks.training.preview import answer
from ace_tasks.training.recipe import Recipe, open_start

SIDE_PX = 128
GOALS = {  # per cent; of a task as a whole, or of one part of its answers
    ("recolour", ""): 80,
    ("background", ""): 80,
    ("reference", "pattern"): 70,
    ("try_on", "pattern"): 70,
    ("try_on", ""): 50,
}
MOST_BYTES = 40_000_000  # of the variant's folder, which comes with the package

_DRAWING = 0.2  # share of the time
_SCORING_S = 70.0  # kept free for export and scores, of eight minutes
_TRIAL_STEPS = 12
_SEED = 11  # of the held-out examples


@dataclass
class Clock:
    """The time that is given, and what each part took."""

    minutes: float
    started: float = field(default_factory=time.monotonic)
    parts_s: dict[str, float] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        return 60 * self.minutes - (time.monotonic() - self.started)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = time.monotonic()
        yield
        self.parts_s[name] = round(time.monotonic() - before, 1)
        print(f"{name}: {self.parts_s[name]:.0f} s; {self.left_s:.0f} s left", flush=True)


def make_recipe(batch: int) -> Recipe:
    """Return the recipe before its examples and steps are known."""
    return Recipe(
        name="mini",
        summary="Small, trained by this project on a procedural world of 64 and 128 px pictures; "
        "really edits.",
        start_from="mini",
        data=DataSettings(
            sizes_px=(SIDE_PX, SIDE_PX, SIDE_PX, SIDE_PX // 2),
            examples=10**6,
            chunk=16,
            task_weights={"recolour": 1.5, "remove": 0.5, "reference": 5, "try_on": 6},
            seed=17,
        ),
        objective=ObjectiveSettings(stage_1_share=0, seed=18, batch=batch),
        # `mini` had batches of 24 and 8e-4; Adam's rate grows with the root of a batch at most.
        loop=LoopSettings(steps=1, lr=1.5e-3, ema_decay=0.995, log_every_steps=20),
    )


def draw(recipe: Recipe, work: Path, until_left_s: float, clock: Clock) -> Recipe:
    """Draw and encode chunks on every CPU. Return the recipe with as many examples as were made."""
    spawn, workers, done = multiprocessing.get_context("spawn"), os.cpu_count() or 1, 0
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        waiting = {pool.submit(stages.encode_chunk, recipe, work, n) for n in range(workers)}
        submitted = workers
        while waiting:
            ready = next(as_completed(waiting))
            waiting.remove(ready)
            ready.result()
            done += 1
            if clock.left_s > until_left_s:
                waiting.add(pool.submit(stages.encode_chunk, recipe, work, submitted))
                submitted += 1
    assert isinstance(recipe.data, DataSettings)
    data = recipe.data.model_copy(update={"examples": done * recipe.data.chunk})
    return recipe.model_copy(update={"data": data})


class Training:
    """The model, its batches, and the steps that fit into the time."""

    def __init__(self, recipe: Recipe, work: Path, device: str):
        self.recipe, self.work, self.device = recipe, work, device
        self.shapes = latents.load(work / stages.LATENTS, recipe.data)
        self.model, self.learns = stages.make_model(recipe, work, device)

    def fit(self, until_left_s: float, clock: Clock) -> list[dict[str, float]]:
        """Train for as many steps as the time allows. Return what was logged."""
        with clock.part("compile and trial"):
            step_s = self._trial()
        steps = max(1, int((clock.left_s - until_left_s) / step_s))
        print(f"{step_s * 1000:.0f} ms a step, so {steps} steps", flush=True)
        loop_settings = self.recipe.loop.model_copy(
            update={"steps": steps, "warmup_steps": min(150, steps // 10)}
        )
        self.recipe = self.recipe.model_copy(update={"loop": loop_settings})
        loop = Loop(self.learns, loop_settings, self.work / stages.CHECKPOINT)
        batches = self._batches(steps)
        logged: list[dict[str, float]] = []

        def loss(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return self._loss(batches, step)

        with clock.part("train"):
            loop.run(
                loss,
                lambda step, numbers: logged.append({"step": step, **numbers}),
                # A slower hour than the trial's. One step is always made.
                lambda: loop.step > 0 and clock.left_s < until_left_s - 10,
            )
        return logged

    def _trial(self) -> float:
        """Return the seconds of a step, measured after every shape was compiled.

        The weights stay: gradients are made and thrown away.
        """
        if self.device == "cuda":
            self.model.transformer.compile_repeated_blocks(dynamic=True)
        batches = self._batches(_TRIAL_STEPS)
        self.model.train()
        seconds = []
        for step in range(2 * _TRIAL_STEPS):
            started = time.monotonic()
            value, _ = self._loss(batches, step)
            value.backward()  # type: ignore[no-untyped-call]
            value.item()  # waits for the device
            seconds.append(time.monotonic() - started)
        self.model.zero_grad(set_to_none=True)
        # The optimizer and the average take about a tenth of a step more.
        return 1.1 * sum(seconds[_TRIAL_STEPS:]) / _TRIAL_STEPS

    def _batches(self, steps: int) -> Batches:
        return Batches(self.shapes, self.recipe.objective, steps)

    def _loss(self, batches: Batches, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return objective.loss(self.model, *batches.take(step), self.recipe.objective, self.device)


def evaluate(folder: Path, device: str, examples: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Score the variant on held-out examples of 128 px, task by task, as far as time goes."""
    settings = WeightsSettings(folder=folder)
    model = AceModel.load(sources.open_variant(str(folder), settings), settings, device)
    found: dict[str, list[AnswerScores]] = {}
    for chunk in measure.chunks([*dict.fromkeys(task for task, _ in GOALS)], examples, 8):
        if clock.left_s < 5 and chunk.task in found:
            continue
        answered = measure.evaluate_model(
            lambda example, number: answer(model, example, number), chunk.draw(_SEED, SIDE_PX)
        )
        found.setdefault(chunk.task, []).extend(each.scores for each in answered)
    return {task: _shares(scores) for task, scores in found.items()}


def _shares(scores: Sequence[AnswerScores]) -> dict[str, float]:
    """Return the examples, and how many of 100 are right, as a whole ("") and part by part."""
    count = len(scores)
    parts = {part: sum(each.parts[part] for each in scores) for part in scores[0].parts}
    right = {"": sum(each.success for each in scores), **parts}
    return {"examples": count} | {name: 100 * n / count for name, n in right.items()}


def judge(scores: dict[str, dict[str, float]], size: int) -> list[str]:
    """Return a line for each goal: what was asked, what was found, and whether that meets it."""
    lines = []
    for (task, part), least in GOALS.items():
        given = scores[task][part]
        name = f"{task}, {part}" if part else task
        lines.append(f"{'met' if given >= least else 'missed'}: {name}: {given:.0f} of {least} %")
    fits = "met" if size <= MOST_BYTES else "missed"
    return [*lines, f"{fits}: {size / 1e6:.0f} of at most {MOST_BYTES / 1e6:.0f} MB"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.mini_128",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="in all (8)")
    parser.add_argument("--out", type=Path, default=Path("out/mini-128"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default=runtime_info.best_device())
    parser.add_argument("--batch", type=int, default=256, help="examples of a step (256)")
    parser.add_argument("--examples", type=int, default=64, help="scored of each task (64)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    clock = Clock(given.minutes)
    work = given.out / "work"
    recipe = make_recipe(given.batch)
    settings = WeightsSettings(folder=work / "weights")
    start = open_start(recipe, settings)
    assert start
    start.begin(work, settings)
    scoring_s = min(_SCORING_S, 0.3 * 60 * given.minutes)
    with clock.part("draw and encode"):
        recipe = draw(recipe, work, clock.left_s - _DRAWING * 60 * given.minutes, clock)
    training = Training(recipe, work, given.device)
    logged = training.fit(scoring_s, clock)
    (given.out / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in logged))
    curve.curves(logged, training.recipe.loop.steps).save(given.out / "curves.png")
    folder = given.out / "variant"
    with clock.part("export"):
        export(training.recipe, work, folder)
    with clock.part("score"):
        scores = evaluate(folder, given.device, given.examples, clock)
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    goals = judge(scores, size)
    report = {
        "machine": runtime_info.hardware(given.device).model_dump(),
        "recipe": training.recipe.model_dump(mode="json"),
        "parts_s": clock.parts_s,
        "scores": scores,
        "goals": goals,
        "files": places.hash_folder(folder),
    }
    (given.out / "scores.json").write_text(json.dumps(report, indent=1))
    print("\n".join(goals))


if __name__ == "__main__":
    main()
