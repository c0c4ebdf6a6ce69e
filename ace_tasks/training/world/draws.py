"""Draw scenes at random, and hold some back from training.

Every draw takes its own generator. Training never sees the products and backgrounds that are held
back. The answers of a test show only these, but its input pictures may show any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np

from ace_tasks.training.world.scene import (
    BACKGROUNDS,
    KINDS,
    PALETTE,
    PATTERNS,
    PERSON,
    TONES,
    Paint,
    Scene,
)
from ace_tasks.training.world.shapes import Wearer

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

_MIN_SCALE, _MAX_SCALE = 0.9, 1.12  # a person fills the picture at 1
_SKINS = ((244, 208, 178), (214, 164, 124), (146, 98, 68), (94, 62, 46))
_HAIRS = ((40, 30, 28), (104, 66, 40), (206, 172, 104), (150, 148, 150))
_CLOTHS = ((58, 62, 78), (120, 112, 104), (196, 186, 166), (84, 70, 58))

T = TypeVar("T")


def held_back(kind: str, paint: Paint) -> bool:
    """Return whether a product never occurs in training.

    This holds for a quarter of all products. Every pair of attributes does occur.
    """
    places = KINDS.index(kind), list(PALETTE).index(paint.colour), PATTERNS.index(paint.pattern)
    return sum(places) % 4 == 0


def held_back_place(kind: str, background: str) -> bool:
    """Return whether a kind never occurs before a background in training.

    This holds for a quarter of the backgrounds of each kind, and for others with another kind.
    """
    return (KINDS.index(kind) + BACKGROUNDS.index(background)) % 4 == 0


@lru_cache(maxsize=64)
def paints(kind: str, split: Split | None) -> tuple[Paint, ...]:
    """Return all paints of a kind in a split, or in both if `split` is None."""
    every = (
        Paint(colour, pattern, tone)
        for colour in PALETTE
        for pattern in PATTERNS
        for tone in (TONES if pattern != "plain" else ("white",))
    )
    return tuple(p for p in every if split is None or held_back(kind, p) == (split == "test"))


@lru_cache(maxsize=64)
def backgrounds(kind: str, split: Split | None) -> tuple[str, ...]:
    """Return all backgrounds of a kind in a split, or in both if `split` is None."""
    return tuple(
        b for b in BACKGROUNDS if split is None or held_back_place(kind, b) == (split == "test")
    )


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def draw_scene(rng: np.random.Generator, kind: str, split: Split | None) -> Scene:
    """Draw a random scene of one kind in a split, or in both if `split` is None."""
    person = kind == PERSON
    return Scene(
        kind=kind,
        paint=pick(rng, paints(kind, split)),
        background=pick(rng, backgrounds(kind, split)),
        x=float(rng.uniform(0.42, 0.58) if person else rng.uniform(0.38, 0.62)),
        y=float(rng.uniform(0.49, 0.52) if person else rng.uniform(0.50, 0.60)),
        scale=float(rng.uniform(_MIN_SCALE, 1.0 if person else _MAX_SCALE)),
        flip=bool(rng.integers(2)),
        light=float(rng.uniform(-1, 1)),
        wearer=Wearer(
            skin=pick(rng, _SKINS),
            hair=pick(rng, _HAIRS),
            cloth=pick(rng, _CLOTHS),
            long_hair=bool(rng.integers(2)),
            skirt=bool(rng.integers(2)),
            arms=float(rng.uniform()),
        )
        if person
        else None,
    )


def empty(scene: Scene) -> Scene:
    """Return the scene without its product."""
    return replace(scene, kind=None, wearer=None)


def posed(scene: Scene) -> Scene:
    """Return the scene with the product in the middle, not flipped, and lit from the front."""
    return replace(scene, x=0.5, y=0.54, scale=1.0, flip=False, light=0.0)
