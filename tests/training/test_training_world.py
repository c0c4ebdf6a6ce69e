"""The procedural world. If these break, a model is trained on pictures that say something else than
their scene does, and every score that compares with a render measures nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from PIL import Image

from ace_tasks.training.world import scene as world
from ace_tasks.training.world.draws import backgrounds, draw_scene, empty, held_back, paints, posed
from ace_tasks.training.world.scene import KINDS, PALETTE, PATTERNS, PERSON, PRODUCTS, Scene, render
from ace_tasks.training.world.world_tasks import draw_example
from tests.support.processes import run_python


def scenes(count: int, kinds: tuple[str, ...] = KINDS) -> list[Scene]:
    rng = np.random.default_rng(1)
    return [draw_scene(rng, kinds[n % len(kinds)], None) for n in range(count)]


def fingerprint() -> str:
    digest = hashlib.sha256()
    for n in range(24):
        example = draw_example(3, n, 64)
        digest.update(example.prompt.encode() + example.target.tobytes())
    return digest.hexdigest()


def test_another_process_makes_the_same_examples_and_loads_no_torch() -> None:
    """Workers of one training must draw one world, and its pictures need no GPU library."""
    code = (
        "import sys, ace_tasks.evaluation, tests.training.test_training_world as t;"
        "print(t.fingerprint(), 'torch' in sys.modules)"
    )
    ended = run_python("-c", code, env={"PYTHONHASHSEED": "7"})
    assert ended.stdout.split() == [fingerprint(), "False"]


def test_a_picture_does_not_depend_on_what_was_rendered_before() -> None:
    first = [render(scene, 64).picture for scene in scenes(24)]
    again = [render(scene, 64).picture for scene in reversed(scenes(24))]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))


def test_every_field_of_a_scene_shows() -> None:
    """Otherwise two different answers would look alike."""
    scene = posed(scenes(1)[0])
    person = posed(scenes(1, (PERSON,))[0])
    assert person.wearer is not None
    striped = replace(scene.paint, pattern="striped", tone="white")
    changes = [
        *(replace(scene, kind=kind) for kind in PRODUCTS if kind != scene.kind),
        *(replace(scene, background=b) for b in world.BACKGROUNDS if b != scene.background),
        *(replace(scene, paint=replace(striped, colour=colour)) for colour in PALETTE),
        *(replace(scene, paint=replace(striped, pattern=p)) for p in PATTERNS if p != "striped"),
        replace(scene, paint=replace(striped, tone="black")),
        replace(scene, x=0.45),
        replace(scene, y=0.6),
        replace(scene, scale=0.9),
        replace(scene, flip=True),
        replace(scene, light=0.5),
        empty(scene),
        person,
        *(
            replace(person, wearer=replace(person.wearer, **change))
            for change in (
                {"skin": (1, 2, 3)},
                {"hair": (1, 2, 3)},
                {"cloth": (1, 2, 3)},
                {"long_hair": not person.wearer.long_hair},
                {"skirt": not person.wearer.skirt},
                {"arms": person.wearer.arms / 2},
            )
        ),
    ]
    seen = {render(each, 64).picture.tobytes() for each in changes}
    assert len(seen) == len(changes)


@pytest.mark.parametrize("size_px", [64, 96, 128])
def test_masks_mark_exactly_what_a_product_changes(size_px: int) -> None:
    """A mask one pixel short would make "unchanged outside the mask" impossible to reach."""
    for scene in scenes(24):
        made, bare = render(scene, size_px), render(empty(scene), size_px)
        assert np.array_equal(made.picture[~made.footprint], bare.picture[~made.footprint])
        colour = "red" if scene.paint.colour != "red" else "blue"
        other = render(replace(scene, paint=replace(scene.paint, colour=colour)), size_px)
        changed = (made.picture != other.picture).any(axis=2)
        assert not changed[made.painted == 0].any()
        assert changed.sum() > 0.02 * changed.size
        assert (made.painted <= made.product).all()
        assert (made.garment is not None) == (scene.kind == PERSON)


def test_edges_are_smooth_and_a_scene_looks_alike_at_every_size() -> None:
    for scene in scenes(12):
        small, large = render(scene, 64), render(scene, 128)
        between = (small.product > 0) & (small.product < 255)
        assert between.sum() > 40
        halved = np.asarray(Image.fromarray(large.picture).reduce(2), np.float32)
        assert np.abs(halved - small.picture).mean() < 3


def test_products_differ_in_silhouette_colours_in_hue_and_patterns_are_coarse_enough() -> None:
    """A trial learnt no pattern below nine pixels, and similar silhouettes cannot be scored."""
    shapes = {k: render(posed(replace(scenes(1)[0], kind=k)), 64).product > 127 for k in PRODUCTS}
    for a, b in combinations(shapes.values(), 2):
        assert (a & b).sum() / (a | b).sum() < 0.75
    for first, second in combinations(PALETTE.values(), 2):
        assert np.linalg.norm(np.subtract(first, second)) > 90
    for scene in scenes(60):
        assert 1 / world.texture(scene, 64)[2] >= 9


def test_no_product_is_lost_on_its_background() -> None:
    for kind, background, colour in product(KINDS, world.BACKGROUNDS, PALETTE):
        scene = replace(scenes(6)[KINDS.index(kind)], background=background, light=0.0)
        scene = posed(replace(scene, paint=world.Paint(colour)))
        made, bare = render(scene, 32), render(empty(scene), 32)
        inside = made.painted > 250
        contrast = np.abs(made.picture[inside] - bare.picture[inside].astype(float)).max(axis=1)
        assert np.median(contrast) > 45, (kind, background, colour)


def test_holding_back_takes_no_pair_of_attributes_from_training() -> None:
    """A colour that no mug ever had in training would make a test of memory, not of composing."""
    seen = {(k, p.colour, p.pattern) for k in KINDS for p in paints(k, "train")}
    assert {s[:2] for s in seen} == set(product(KINDS, PALETTE))
    assert {s[1:] for s in seen} == set(product(PALETTE, PATTERNS))
    assert {(k, p) for k, _, p in seen} == set(product(KINDS, PATTERNS))
    for kind in KINDS:
        assert {p.tone for p in paints(kind, "test")} == set(world.TONES)
        assert not set(paints(kind, "train")) & set(paints(kind, "test"))
        assert set(paints(kind, "train")) | set(paints(kind, "test")) == set(paints(kind, None))
        assert {*backgrounds(kind, "train"), *backgrounds(kind, "test")} == set(world.BACKGROUNDS)
    every = [(k, p) for k in KINDS for p in paints(k, None)]
    assert 0.15 < sum(held_back(*each) for each in every) / len(every) < 0.35
