"""The prompts of the world: a small grammar with paraphrases, and its vocabulary.

    scene = thing place              "a red mug with white stripes on a wooden table"
    thing = article paint kind | "a person in" article paint "shirt"

Small tokenizers are built from `VOCABULARY`, so every word comes from the tables below.
"""

from __future__ import annotations

import string

import numpy as np

from ace_tasks.training.world.draws import pick
from ace_tasks.training.world.scene import KINDS, PALETTE, PERSON, TONES, Paint, Scene

GARMENT = "shirt"

PLACES: dict[str, tuple[str, ...]] = {
    "studio": ("in a studio", "on a gray background"),
    "table": ("on a wooden table", "on a table"),
    "grass": ("on the grass", "in a green meadow"),
    "beach": ("on the beach", "by the sea"),
    "night": ("at night", "under the moon"),
    "sunset": ("at sunset", "in the evening sun"),
    "bricks": ("by a brick wall", "in front of bricks"),
    "snow": ("in the snow", "in front of white mountains"),
}
_PLAIN = ("{colour} {kind}", "plain {colour} {kind}")
_MARKED = ("{colour} {kind} with {tone} {marks}", "{colour} {marked} {kind} with {tone} {marks}")
_MARKS = {"striped": "stripes", "dotted": "dots", "checked": "checks"}
_PERSON = ("a person in {thing}", "a person wearing {thing}")
CONTROLS = {"edges": "edges", "gray": "gray picture", "mosaic": "mosaic"}

TEMPLATES: dict[str, tuple[str, ...]] = {
    "inpaint": ("{thing} {place}", "a picture of {thing} {place}", "fill in {thing} {place}"),
    "recolour": (
        "make the {kind} {colour}",
        "turn the {kind} {colour}",
        "paint the {kind} {colour}",
        "change the colour of the {kind} to {colour}",
    ),
    "background": (
        "the {kind} {place}",
        "put the {kind} {place}",
        "change the background : the {kind} is {place}",
    ),
    "remove": ("remove the {kind}", "erase the {kind}", "take the {kind} away"),
    "add": ("add {thing}", "put {thing} here", "there is {thing} here"),
    "control": (
        "turn the {control} into {thing} {place}",
        "{thing} {place} from its {control}",
        "make a picture of the {control} : {thing} {place}",
    ),
    "reference": (
        "the {kind} {place}",
        "show the {kind} {place}",
        "the same {kind} {place}",
        "a picture of this {kind} {place}",
    ),
    "try_on": (
        "put the garment on the person",
        "dress the person in the garment",
        "the person wearing this shirt",
    ),
}


def prompt(task: str, scene: Scene, rng: np.random.Generator, control: str = "edges") -> str:
    """Return a user's prompt for a task that makes (or removes the product of) this scene."""
    kind = GARMENT if scene.kind == PERSON and task == "recolour" else scene.kind
    return pick(rng, TEMPLATES[task]).format(
        thing=_thing(scene, rng),
        place=pick(rng, PLACES[scene.background]),
        kind=kind,
        colour=scene.paint.colour,
        control=CONTROLS[control],
    )


def _thing(scene: Scene, rng: np.random.Generator) -> str:
    if scene.kind == PERSON:
        return pick(rng, _PERSON).format(thing=_painted(scene.paint, GARMENT, rng))
    return _painted(scene.paint, str(scene.kind), rng)


def _painted(paint: Paint, kind: str, rng: np.random.Generator) -> str:
    phrase = pick(rng, _MARKED if paint.pattern != "plain" else _PLAIN).format(
        colour=paint.colour,
        kind=kind,
        tone=paint.tone,
        marks=_MARKS.get(paint.pattern),
        marked=paint.pattern,
    )
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _words() -> set[str]:
    templates = (*_PLAIN, *_MARKED, *_PERSON, *sum(TEMPLATES.values(), ()))
    fixed = (text for each in templates for text, *_ in string.Formatter().parse(each))
    slots = (*PALETTE, *TONES, *KINDS, *_MARKS, *_MARKS.values(), *CONTROLS.values(), "a", "an")
    return {w for text in (*fixed, *slots, *sum(PLACES.values(), ())) for w in text.split()}


VOCABULARY: tuple[str, ...] = tuple(sorted(_words()))
