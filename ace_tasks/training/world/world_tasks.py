"""The tasks over the procedural world, each with its exact answer.

The table shows the model's task (`ace_tasks.specs`) for each, and how much of the masked content is
erased on the 448-channel route, whose change channels can carry it (repainting scale 0 keeps all, 1
erases all):

    inpaint, add, remove    → fill       masked content erased (1)
    recolour, background    → edit       masked, content kept (0)
    control                 → edit       without a mask, content kept (0)
    reference               → reference  neither picture nor mask (1)
    try_on                  → try_on     masked content erased (1), garment in the reference

Outside its mask a target equals its image in every pixel, shadows and smooth edges included. A
product that is not visible in the input has a default pose in the answer: not flipped, and in the
middle of its mask or picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageFilter

from ace_tasks.training.world import grammar, selections
from ace_tasks.training.world.control_pictures import CONTROLS
from ace_tasks.training.world.draws import (
    SPLITS,
    Split,
    backgrounds,
    draw_scene,
    empty,
    paints,
    pick,
    posed,
)
from ace_tasks.training.world.scene import KINDS, PERSON, PRODUCTS, Paint, Rendered, Scene, render

if TYPE_CHECKING:
    from ace_tasks.training import sample

ERASED = 128  # grey level of erased pixels
_LOOSE = ("box", "ellipse", "blob")


@dataclass(frozen=True)
class Truth:
    """The scene of the input picture and the scene of the answer, for scoring."""

    before: Scene | None
    after: Scene


@dataclass(frozen=True, eq=False)
class Example:
    """One task with its answer. Pictures are uint8 (H, W, 3), the mask is (H, W), 0 or 255."""

    task: str
    prompt: str
    image: np.ndarray | None
    mask: np.ndarray | None
    references: tuple[np.ndarray, ...]
    target: np.ndarray
    truth: Truth

    @property
    def spec(self) -> str:
        """The task's name in a catalog."""
        return TASKS[self.task].spec

    @property
    def repainting_scale(self) -> float:
        return TASKS[self.task].repainting_scale

    def scale(self, *, use_change: bool) -> float:
        """Return how much of the masked content is erased.

        384 channels have no change that could carry content to keep, so half of it stays in the
        canvas, as `specs` defines for that route.
        """
        halved = not use_change and self.spec == "edit" and self.mask is not None
        return 0.5 if halved else self.repainting_scale

    def row(self) -> sample.TrainingExample:
        """Return the example for the training's sample builder, which takes one reference."""
        from ace_tasks.training import sample

        reference = self.references[0] if self.references else None
        return sample.TrainingExample(self.target, self.image, self.mask, reference)


@dataclass(frozen=True)
class _Draw:
    """The generator, size and split that a task draws from. `seen` is the split of its inputs."""

    rng: np.random.Generator
    size_px: int
    split: Split

    @property
    def seen(self) -> Split | None:
        return "train" if self.split == "train" else None

    def scene(self, kinds: Sequence[str]) -> Scene:
        return draw_scene(self.rng, pick(self.rng, kinds), self.split)

    def paint(self, kind: str, accept: Callable[[Paint], bool]) -> Paint:
        return pick(self.rng, [p for p in paints(kind, self.seen) if accept(p)])

    def background(self, kind: str, but: str) -> str:
        return pick(self.rng, [b for b in backgrounds(kind, self.seen) if b != but])

    def render(self, scene: Scene) -> Rendered:
        return render(scene, self.size_px)

    def around(self, area_HW: np.ndarray, ways: Sequence[str] = selections.WAYS) -> np.ndarray:
        return selections.around(self.rng, area_HW > 0, ways)


def _inpaint(draw: _Draw) -> Example:
    scene = draw.scene(KINDS)
    if draw.rng.random() < 0.15:
        after = draw.render(replace(scene, flip=False))
        mask = draw.around(after.footprint)
    else:
        after = draw.render(scene)
        mask = selections.hole(draw.rng, after.painted > 0, share=0.25)
    image = after.picture.copy()
    image[mask > 0] = ERASED  # otherwise the input would show the answer
    prompt = grammar.prompt("inpaint", after.scene, draw.rng)
    return Example("inpaint", prompt, image, mask, (), after.picture, Truth(None, after.scene))


def _recolour(draw: _Draw) -> Example:
    scene = draw.scene(KINDS)
    same = replace(scene.paint, colour="")
    old = draw.paint(str(scene.kind), lambda p: p != scene.paint and replace(p, colour="") == same)
    after, before = draw.render(scene), draw.render(replace(scene, paint=old))
    mask = draw.around(after.product if after.garment is None else after.garment)
    return _edit("recolour", draw, before, after, mask)


def _background(draw: _Draw) -> Example:
    scene = draw.scene(KINDS)
    old = draw.background(str(scene.kind), scene.background)
    after, before = draw.render(scene), draw.render(replace(scene, background=old))
    product = Image.fromarray(after.product)
    if draw.rng.integers(2):  # as a quick selection that reaches a little into the product
        product = product.filter(ImageFilter.MinFilter(3))
    mask = np.where(np.asarray(product) < 255, 255, 0).astype(np.uint8)
    return _edit("background", draw, before, after, mask)


def _remove(draw: _Draw) -> Example:
    scene = draw.scene(PRODUCTS)
    before, after = draw.render(scene), draw.render(empty(scene))
    return _edit("remove", draw, before, after, draw.around(before.footprint), named=scene)


def _add(draw: _Draw) -> Example:
    scene = replace(draw.scene(PRODUCTS), flip=False)
    before, after = draw.render(empty(scene)), draw.render(scene)
    return _edit("add", draw, before, after, draw.around(after.footprint, _LOOSE))


def _edit(
    task: str,
    draw: _Draw,
    before: Rendered,
    after: Rendered,
    mask: np.ndarray,
    named: Scene | None = None,
) -> Example:
    """Return an edit from one picture to another. The prompt is about `named`, else `after`."""
    prompt = grammar.prompt(task, named or after.scene, draw.rng)
    truth = Truth(before.scene, after.scene)
    return Example(task, prompt, before.picture, mask, (), after.picture, truth)


def _control(draw: _Draw) -> Example:
    after = draw.render(draw.scene(KINDS))
    control = pick(draw.rng, tuple(CONTROLS))
    image = CONTROLS[control](after.picture)
    prompt = grammar.prompt("control", after.scene, draw.rng, control)
    return Example("control", prompt, image, None, (), after.picture, Truth(None, after.scene))


def _reference(draw: _Draw) -> Example:
    scene = posed(draw.scene(PRODUCTS))
    kind = str(scene.kind)
    elsewhere = draw.background(kind, but=scene.background)
    looks = draw_scene(draw.rng, kind, draw.seen)
    shown = draw.render(replace(looks, paint=scene.paint, background=elsewhere))
    target = draw.render(scene).picture
    prompt = grammar.prompt("reference", scene, draw.rng)
    truth = Truth(shown.scene, scene)
    return Example("reference", prompt, None, None, (shown.picture,), target, truth)


def _try_on(draw: _Draw) -> Example:
    scene = draw.scene((PERSON,))
    shirts = set(paints(grammar.GARMENT, draw.seen))
    new = pick(draw.rng, [p for p in paints(PERSON, draw.split) if p in shirts])
    after = draw.render(replace(scene, paint=new))
    before = draw.render(replace(scene, paint=draw.paint(PERSON, lambda p: p != new)))
    shown = replace(draw_scene(draw.rng, grammar.GARMENT, draw.seen), paint=new)
    edit = _edit("try_on", draw, before, after, draw.around(after.painted))
    return replace(edit, references=(draw.render(shown).picture,))


@dataclass(frozen=True)
class Task:
    """A task: its function, the catalog's task for it, and its weight among the others."""

    make: Callable[[_Draw], Example]
    spec: Literal["fill", "edit", "reference", "try_on"]
    repainting_scale: float
    weight: float
    references: int = 0


# A trial learnt slowly to read colours from words or from a reference, so such tasks weigh more.
TASKS: dict[str, Task] = {
    "inpaint": Task(_inpaint, "fill", 1.0, 2),
    "recolour": Task(_recolour, "edit", 0.0, 3),
    "background": Task(_background, "edit", 0.0, 1),
    "remove": Task(_remove, "fill", 1.0, 1),
    "add": Task(_add, "fill", 1.0, 2),
    "control": Task(_control, "edit", 0.0, 2),
    "reference": Task(_reference, "reference", 1.0, 3, references=1),
    "try_on": Task(_try_on, "try_on", 1.0, 3, references=1),
}
ALL_TASKS: tuple[str, ...] = tuple(TASKS)
STAGE_1_TASKS: tuple[str, ...] = tuple(name for name, task in TASKS.items() if not task.references)


def draw_example(
    seed: int,
    index: int,
    size_px: int,
    *,
    split: Split = "train",
    tasks: Sequence[str] = ALL_TASKS,
    weights: Mapping[str, float] | None = None,
) -> Example:
    """Return example `index` of an endless sequence, the same in every process.

    The task is drawn by weight among `tasks`. `weights` has the weights that differ from the
    world's. Splits share neither contents nor seeds.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    share = np.array([(weights or {}).get(name, TASKS[name].weight) for name in tasks])
    name = tasks[int(rng.choice(len(tasks), p=share / share.sum()))]
    return TASKS[name].make(_Draw(rng, size_px, split))
