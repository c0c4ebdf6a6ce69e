"""Every arm with every seed. What is done is not done again.

python -m tests.benchmarks.ablation --work out/ablation
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ace_tasks import __version__
from ace_tasks.evaluation.measure import Answered
from ace_tasks.evaluation.report import lines
from ace_tasks.training.keeping import read_metrics
from ace_tasks.training.latents import Latents
from ace_tasks.training.recipe import Recipe
from ace_tasks.training.stages import average
from tests.benchmarks.ablation import measure, report, train
from tests.benchmarks.ablation.arms import ARMS, PAPER, Arm
from tests.benchmarks.ablation.report import Result

_SHOWN = 2  # examples of each task on the sheet
_RESULT, _PICTURES = "result.json", "pictures.npz"


def run(
    recipe: Recipe, work: Path, seeds: int, examples: int, arms: Sequence[Arm] = ARMS
) -> list[Result]:
    """Train and measure all of it; tables and pictures lie in the work folder, newer ones after
    each training. `examples`: of each task, held back; others for the loss than for the scores.
    """
    shapes = train.encode(recipe, work)
    held_back = train.encode_held_back(recipe, work, examples)
    results: list[Result] = []
    for arm, seed in _order(arms, seeds):
        own = arm.recipe(recipe, seed, steps_of(arm, recipe.loop.steps, results))
        results.append(_one(arm, seed, own, work, shapes, held_back, examples))
        print(f"{own.name}: {results[-1].cpu_s:.0f} s, {results[-1].losses}", flush=True)
        write(results, recipe, work)  # what there is so far
    return results


def _order(arms: Sequence[Arm], seeds: int) -> list[tuple[Arm, int]]:
    """Seed by seed, so that what there is can be compared at any time; in the end those that are
    told by the others how long they may take.
    """
    pairs = [(arm, seed) for seed in range(seeds) for arm in arms]
    return sorted(pairs, key=lambda pair: pair[0].same_seconds)


def steps_of(arm: Arm, steps: int, results: Sequence[Result]) -> int:
    """Return the steps of a training. One as long as the paper's has fewer, by the cost of these."""
    if not arm.same_seconds:
        return steps
    paper, other = (
        sum(each.cpu_s for each in results if each.arm == name) for name in (PAPER.name, "sequence")
    )
    return max(1, round(steps * paper / other))


def _one(
    arm: Arm,
    seed: int,
    recipe: Recipe,
    work: Path,
    shapes: Sequence[Latents],
    held_back: Mapping[str, Latents],
    examples: int,
) -> Result:
    folder = work / f"{arm.name}-{seed}"
    if (folder / _RESULT).exists():
        return Result.model_validate_json((folder / _RESULT).read_bytes())
    loop = train.train(arm, recipe, shapes, held_back, folder)
    model = measure.load(arm, recipe, work, loop)
    found = {task: measure.answer(model, task, examples) for task in train.tasks_of(recipe)}
    _keep_pictures(folder, found)
    metrics = read_metrics(folder / "metrics.jsonl")
    half = min(metrics, key=lambda each: abs(each["step"] - recipe.loop.steps / 2))
    scores = {task: [each.scores for each in answered] for task, answered in found.items()}
    result = Result(
        arm=arm.name,
        seed=seed,
        recipe=recipe.fingerprint,
        weights=_fingerprint(average(loop)),
        code_version=__version__,
        steps=recipe.loop.steps,
        cpu_s=metrics[-1]["cpu_s"],
        half_s=half["cpu_s"] * recipe.loop.steps / 2 / half["step"],
        tokens=_tokens(arm, shapes),
        losses={
            k: v for k, v in metrics[-1].items() if k.startswith("held_") or k.endswith("-ref")
        },
        lines=lines(arm.name, "model", scores),
    )
    (folder / _RESULT).write_text(result.model_dump_json(indent=1))
    return result


def _keep_pictures(folder: Path, found: Mapping[str, Sequence[Answered]]) -> None:
    shown = {task: np.stack([a.picture for a in each[:_SHOWN]]) for task, each in found.items()}
    np.savez(folder / _PICTURES, **shown)  # type: ignore[arg-type]


def _fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    return digest.hexdigest()


def _tokens(arm: Arm, shapes: Sequence[Latents]) -> tuple[int, int]:
    counts = [each.target_BCHW.shape[2] * each.target_BCHW.shape[3] // 4 for each in shapes]
    factor = 2 if arm.sequence else 1
    return factor * min(counts), factor * max(counts)


def write(results: Sequence[Result], recipe: Recipe, work: Path) -> None:
    """Write ablation.md, and ablation.png and samples.png of the first seed."""
    (work / "ablation.md").write_text(report.tables(results))
    runs = {(each.arm, each.seed): work / f"{each.arm}-{each.seed}" for each in results}
    curves = report.curves({k: read_metrics(v / "metrics.jsonl") for k, v in runs.items()})
    curves.quantize(64).save(work / "ablation.png", optimize=True)
    tasks, size_px = train.tasks_of(recipe), train.size_px(recipe)
    pictures = {}
    for name, found in report.by_arm(results).items():
        with np.load(runs[name, found[0].seed] / _PICTURES) as kept:
            pictures[name] = [picture for task in tasks for picture in kept[task]]
    shown = len(next(iter(pictures.values()))) // len(tasks)
    examples = [each for task in tasks for each in measure.examples(task, shown, size_px).values()]
    sheet = report.samples(examples, pictures)
    sheet.quantize(128).save(work / "samples.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways of training on the same world.")
    parser.add_argument("--work", type=Path, default=Path("out/ablation"), help="goes on there")
    parser.add_argument("--recipe", default="nano", help="a committed one, or a .json file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=32, help="of each task, to measure with")
    given = parser.parse_args()
    torch.set_num_threads(1)  # what it adds up depends on it, and so do the costs
    run(Recipe.read(given.recipe), given.work, given.seeds, given.examples)
    print((given.work / "ablation.md").read_text())


if __name__ == "__main__":
    main()
