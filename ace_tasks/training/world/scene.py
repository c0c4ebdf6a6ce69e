"""The scenes of the procedural world that `mini` is trained and measured on, and their rendering.

A `Scene` describes a picture completely, and `render` is a pure function of scene and size. The
answer of an edit is therefore the render of the changed scene, exact to the pixel. Nothing here
depends on the process or on earlier draws.

Legend: H height, W width; pictures are uint8 RGB. Places and sizes are parts of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ace_tasks.training.world import shapes
from ace_tasks.training.world.backdrops import BACKDROPS, paint_backdrop
from ace_tasks.training.world.shapes import Part, Placement, Rgb, Wearer

PALETTE: dict[str, Rgb] = {
    "red": (204, 34, 44),
    "orange": (242, 126, 28),
    "yellow": (244, 216, 62),
    "green": (44, 152, 62),
    "cyan": (52, 196, 204),
    "blue": (38, 72, 200),
    "purple": (124, 48, 160),
    "pink": (246, 140, 188),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
TONES: dict[str, Rgb] = {"white": (246, 244, 240), "black": (34, 32, 38)}  # colours of marks
PRODUCTS = tuple(shapes.PRODUCTS)
PERSON = "person"
KINDS = (*PRODUCTS, PERSON)
BACKGROUNDS = tuple(BACKDROPS)

_EXTENT = {PERSON: 0.92}  # height at scale 1, as a part of the picture
_PRODUCT_EXTENT = 0.60
PERIOD = 0.168  # of a pattern at scale 1: 9.7 px or more at 64 px; under 9 px mini learnt none
_PHASE = 0.4
_SHADOW = 0.45


@dataclass(frozen=True)
class Paint:
    """The paint of a product or garment. Plain has no marks, and its tone is "white"."""

    colour: str
    pattern: str = "plain"
    tone: str = "white"


@dataclass(frozen=True)
class Scene:
    """The complete description of a picture. `kind` None is an empty background."""

    kind: str | None
    paint: Paint
    background: str
    x: float = 0.5
    y: float = 0.54
    scale: float = 1.0
    flip: bool = False
    light: float = 0.0  # from -1 (left) to 1 (right)
    wearer: Wearer | None = None  # only for the kind "person"

    @property
    def place(self) -> Placement:
        unit = self.scale * _EXTENT.get(self.kind or "", _PRODUCT_EXTENT)
        return Placement(self.x, self.y, unit, self.flip)

    def parts(self) -> tuple[Part, ...]:
        if self.kind is None:
            return ()
        if self.kind != PERSON:
            return shapes.PRODUCTS[self.kind]
        assert self.wearer is not None
        return shapes.person(self.wearer)


@dataclass(frozen=True, eq=False)
class Rendered:
    """A scene's picture and masks. Masks are coverage: 255 inside, less along edges."""

    scene: Scene
    picture: np.ndarray  # (H, W, 3) uint8
    product: np.ndarray  # (H, W) uint8: the product, or the whole person
    painted: np.ndarray  # (H, W) uint8: the part of it in the scene's paint
    shadow: np.ndarray  # (H, W) uint8, 0 or 255: where the shadow darkens the ground
    garment: np.ndarray | None  # (H, W) uint8: `painted`, if a person wears it

    @property
    def footprint(self) -> np.ndarray:
        """Return the pixels (H, W) bool in which the scene differs from its empty background."""
        drawn: np.ndarray = (self.product > 0) | (self.shadow > 0)
        return drawn


@lru_cache(maxsize=16)
def _grid(size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (1, W) and y (H, 1) of the pixel centres."""
    centres = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    return centres[None, :], centres[:, None]


def local(scene: Scene, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres relative to the product, (1, W) and (H, 1), in units of its size."""
    (x, y), place = _grid(size_px), scene.place
    return (x - place.x) / np.float32(place.unit), (y - place.y) / np.float32(place.unit)


def texture(scene: Scene, size_px: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the pixel centres relative to the pattern, (1, W) and (H, 1), and a pixel's side.

    All are in periods. Patterns grow with their product, and are placed so that rows of dots hit
    the parts of every product.
    """
    (u, v), period = local(scene, size_px), PERIOD * scene.scale
    share = scene.place.unit / period
    return u * share, v * share - _PHASE, 1 / (size_px * period)


def marks(pattern: str, u: np.ndarray, v: np.ndarray, pixel: float) -> np.ndarray:
    """Return the coverage in [0, 1] of a pattern's marks at (u, v). Lengths are in periods."""
    off_u, off_v = np.broadcast_arrays(np.abs(u - np.rint(u)), np.abs(v - np.rint(v)))
    coverage: np.ndarray = np.zeros(off_u.shape, np.float32)
    if pattern == "striped":
        coverage = np.clip((0.21 - off_v) / pixel + 0.5, 0, 1)
    elif pattern == "dotted":
        coverage = np.clip((0.31 - np.hypot(off_u, off_v)) / pixel + 0.5, 0, 1)
    elif pattern == "checked":
        side_u, side_v = (np.clip((0.25 - off) * 2 / pixel, -1, 1) for off in (off_u, off_v))
        coverage = (1 + side_u * side_v) / 2
    return coverage


def shading(scene: Scene, size_px: int) -> np.ndarray:
    """Return the product's brightness, (H, W) float32 around 1, for a round body lit from a side."""
    u, v = (np.clip(each, -0.6, 0.6) for each in local(scene, size_px))
    brightness: np.ndarray = 1.05 + 0.24 * scene.light * u - 0.40 * u**2 - 0.16 * v
    return brightness


def render(scene: Scene, size_px: int) -> Rendered:
    """Render the scene as a square picture of `size_px`, with its masks."""
    x, _ = _grid(size_px)
    sidelight = 1 + np.float32(0.10 * scene.light) * (2 * x - 1)
    picture = paint_backdrop(scene.background, size_px) * sidelight[:, :, None]
    shadow = _shadow(scene, size_px)
    picture *= (1 - _SHADOW * shadow)[:, :, None]
    product, painted = _draw_product(picture, scene)
    return Rendered(
        scene=scene,
        picture=np.rint(np.clip(picture, 0, 255)).astype(np.uint8),
        product=product,
        painted=painted,
        shadow=np.where(shadow > 0, 255, 0).astype(np.uint8),
        garment=painted if scene.kind == PERSON else None,
    )


def _draw_product(picture: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draw the product into a picture (H, W, 3) float32.

    Returns the coverage (H, W) of the product and of its paint.
    """
    size_px = len(picture)
    product, painted = np.zeros((2, size_px, size_px), np.uint8)
    if scene.kind is None:
        return product, painted
    shade = shading(scene, size_px)[:, :, None]
    paint = np.broadcast_to(_paint(scene, size_px), picture.shape)
    for colour, at, coverage in shapes.layers(scene.parts(), scene.place, size_px):
        flat = paint[at] if colour is None else np.asarray(colour, np.float32)
        alpha = coverage[:, :, None].astype(np.float32) / 255
        picture[at] += alpha * (flat * shade[at] - picture[at])
        product[at] = np.maximum(product[at], coverage)
        if colour is None:
            painted[at] = np.maximum(painted[at], coverage)
        else:
            painted[at] = np.minimum(painted[at], 255 - coverage)
    return product, painted


def _paint(scene: Scene, size_px: int) -> np.ndarray:
    """Return the unshaded paint for the whole picture, (H, W, 3), or (3,) if it is plain."""
    paint = np.asarray(PALETTE[scene.paint.colour], np.float32)
    if scene.paint.pattern != "plain":
        tone = np.asarray(TONES[scene.paint.tone], np.float32)
        paint = paint + marks(scene.paint.pattern, *texture(scene, size_px))[..., None] * (
            tone - paint
        )
    return paint


def _shadow(scene: Scene, size_px: int) -> np.ndarray:
    """Return a soft ellipse under the product, (H, W) in [0, 1], zero outside it."""
    if scene.kind is None:
        return np.zeros((size_px, size_px), np.float32)
    u, v = local(scene, size_px)
    half_w = 0.30 if scene.kind == PERSON else 0.48
    depth: np.ndarray = np.clip(1 - (u / half_w) ** 2 - ((v - 0.49) / 0.08) ** 2, 0, None)
    depth **= 0.7
    return depth
