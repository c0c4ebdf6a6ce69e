"""Score edits in the procedural world by comparing them with the exact answer.

An edit succeeds if all of its parts succeed, each measured over its own region of the picture:

    colour      the right colour of the palette is the nearest to the paint's, and near enough
    pattern     of all patterns, tones and offsets, the right one fits best, and well enough
    shape       of all products, the right one's silhouette fits best, and well enough
    background  the right background is the nearest, and near enough
    kept        everything outside the mask is unchanged
    detail      edges are where the answer has them, so a control picture was redrawn, not copied

The limits lie between the scores of the answer with mild blur and noise, and the scores of copying
the input or filling the mask with a mean colour. `tests/evaluation/test_evaluation.py` checks both.

Legend: H height, W width, N pixels of a region, J candidates. Pictures are uint8 RGB, errors are
in grey levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from ace_tasks.evaluation.metrics import edge_correlation, mean_error, ssim
from ace_tasks.images.closeness import psnr, rms
from ace_tasks.training.world.draws import empty
from ace_tasks.training.world.scene import (
    BACKGROUNDS,
    PALETTE,
    PATTERNS,
    PRODUCTS,
    TONES,
    Rendered,
    Scene,
    marks,
    render,
    shading,
    texture,
)
from ace_tasks.training.world.selections import dilated
from ace_tasks.training.world.world_tasks import Example

# Raise it when a score or an example of the world changes. Results of other versions are not
# used in an evaluation.
SCORES_VERSION = 1

PARTS: dict[str, tuple[str, ...]] = {
    "inpaint": ("colour", "pattern", "background", "kept"),
    "recolour": ("colour", "pattern", "kept"),
    "background": ("colour", "pattern", "background", "kept"),
    "remove": ("background", "kept"),
    "add": ("colour", "pattern", "shape", "background", "kept"),
    "control": ("colour", "pattern", "background", "detail"),
    "reference": ("colour", "pattern", "shape", "background"),
    "try_on": ("colour", "pattern", "background", "kept"),
}

MAX_COLOUR_ERROR = 60.0  # distance in RGB; the nearest two of the palette are 94 apart
MAX_UNEXPLAINED = 42.0  # RMS of the rest that paint and marks do not explain
MIN_CONTRAST = 55.0  # distance in RGB of marks to paint
MIN_EXPLAINED = 0.35  # share of the variance
MAX_BACKGROUND_ERROR = 18.0  # RMS
MAX_KEPT_ERROR = 12.0  # mean absolute error
MAX_KEPT_PRODUCT_ERROR = 26.0  # the same inside a product, where a blur changes every edge
MIN_SHAPE = 0.65  # intersection over union
MIN_DETAIL = 0.75  # correlation

_FEW = 0.01  # a region below this share of a picture is too small to judge
_NEAREST = 1.05  # within this factor of the nearest counts as nearest
_MIXED = 0.3  # largest share of a mark's colour that a blur may mix into the paint
_SOLID = 250  # coverage of pixels away from edges, which mix two things
_OFFSETS = (0.0, 0.2, 0.4, 0.6, 0.8)  # in periods, by which a pattern may be shifted


@dataclass(frozen=True)
class AnswerScores:
    """One output's scores.

    PSNR is in dB, infinite if the pictures are equal. `outside_error` is the mean absolute error
    outside the mask, in grey levels. The scores of a mask are None for a task without one.
    """

    task: str
    parts: dict[str, bool]
    psnr: float
    psnr_in_mask: float | None
    ssim: float
    outside_error: float | None

    @property
    def success(self) -> bool:
        return all(self.parts.values())


def score(example: Example, output: np.ndarray) -> AnswerScores:
    """Score an output. Raises ValueError unless it has the target's size and type."""
    wanted, given = ((each.shape, str(each.dtype)) for each in (example.target, output))
    if given != wanted:
        raise ValueError(f"accepted: a picture like the answer, {wanted}; given {given}")
    mask = None if example.mask is None else example.mask > 0
    case = _Case(example, output)
    return AnswerScores(
        task=example.task,
        parts={part: getattr(case, part)() for part in PARTS[example.task]},
        psnr=psnr(example.target, output),
        psnr_in_mask=None if mask is None else psnr(example.target, output, mask),
        ssim=ssim(example.target, output),
        outside_error=None if mask is None else mean_error(example.target, output, ~mask),
    )


# ---------------------------------------------------------------- paint


@dataclass(frozen=True, eq=False)
class PaintFit:
    """The look of a region's paint: its own colour and its marks."""

    colour_RGB: np.ndarray
    pattern: str
    tone: str
    unexplained: float  # RMS, grey levels


def fit_paint(
    output: np.ndarray, scene: Scene, region_HW: np.ndarray, offsets: tuple[float, ...] = _OFFSETS
) -> PaintFit:
    """Explain a region (bool) of the scene's product as colour + marks · contrast, unshaded.

    Every pattern is tried at every offset by least squares. If two fit equally well (a checked
    area is its own negative), the marks are the less colourful side: they are white or black.
    """
    size_px = len(output)
    y_N3 = output[region_HW] / shading(scene, size_px)[region_HW][:, None]
    names, marks_JN = _candidate_marks(scene, size_px, region_HW, offsets)
    mean_3, mean_J = y_N3.mean(axis=0), marks_JN.mean(axis=1)
    centred_JN, variance_J = marks_JN - mean_J[:, None], marks_JN.var(axis=1) + 1e-6
    contrast_J3 = centred_JN @ (y_N3 - mean_3) / len(y_N3) / variance_J[:, None]
    colour_J3 = mean_3 - contrast_J3 * mean_J[:, None]
    total = y_N3.var(axis=0).sum()
    explained_J = (contrast_J3**2).sum(axis=1) * variance_J
    explained_J[np.ptp(colour_J3 + contrast_J3, axis=1) > np.ptp(colour_J3, axis=1)] = 0
    explained_J[variance_J < 0.03] = 0  # the region is all mark or all paint
    best = int(explained_J.argmax())
    if (
        explained_J[best] < MIN_EXPLAINED * total
        or np.linalg.norm(contrast_J3[best]) < MIN_CONTRAST
    ):
        return PaintFit(mean_3, "plain", "white", float(np.sqrt(total / 3)))
    tone = "white" if contrast_J3[best].sum() > 0 else "black"
    left = float(np.sqrt(max(0.0, total - explained_J[best]) / 3))
    return PaintFit(colour_J3[best], names[best], tone, left)


def _colour_error(fit: PaintFit, name: str) -> float:
    """Return the distance of the paint's colour to one of the palette.

    A blur may have mixed some of the marks' colour into it, up to the share `_MIXED`.
    """
    colour = np.asarray(PALETTE[name], np.float64)
    if fit.pattern == "plain":
        return float(np.linalg.norm(fit.colour_RGB - colour))
    towards = np.asarray(TONES[fit.tone]) - colour
    share = (fit.colour_RGB - colour) @ towards / (towards @ towards)
    mixed = colour + np.clip(share, 0, _MIXED) * towards
    return float(np.linalg.norm(fit.colour_RGB - mixed))


def _candidate_marks(
    scene: Scene, size_px: int, region_HW: np.ndarray, offsets: tuple[float, ...]
) -> tuple[list[str], np.ndarray]:
    """Return the names of patterns (J) and their marks (J, N) in a region, at every offset."""
    u, v, pixel = texture(scene, size_px)
    u_N, v_N = (np.broadcast_to(each, region_HW.shape)[region_HW] for each in (u, v))
    du, dv = (each.reshape(-1, 1) for each in np.meshgrid(offsets, offsets))
    names = [name for name in PATTERNS if name != "plain"]
    fields = [marks(name, u_N + du, v_N + dv, pixel) for name in names]
    return list(np.repeat(names, len(du))), np.concatenate(fields)


@lru_cache(maxsize=32)
def _rendered(scene: Scene, size_px: int) -> Rendered:
    return render(scene, size_px)


def _inside(region_HW: np.ndarray) -> np.ndarray:
    """Return a region (bool) without its rim, where a blur mixes it with its neighbours."""
    rim_px = max(1, len(region_HW) // 64)
    inside: np.ndarray = dilated(np.where(region_HW, 0, 255).astype(np.uint8), rim_px) == 0
    return inside


def _foreground(picture: np.ndarray, backdrop: np.ndarray) -> np.ndarray:
    """Return how much each pixel differs from the empty background, (H, W) in [0, 1].

    Noise counts as no difference.
    """
    distance = np.linalg.norm(picture.astype(np.float32) - backdrop, axis=2)
    share: np.ndarray = np.clip((distance - 30) / 60, 0, 1)
    return share


@dataclass(frozen=True, eq=False)
class _Case:
    """An output beside its example. Each part of a score is a method."""

    example: Example
    output: np.ndarray

    @property
    def scene(self) -> Scene:
        return self.example.truth.after

    def render(self, scene: Scene) -> Rendered:
        return _rendered(scene, len(self.output))

    @property
    def answer(self) -> Rendered:
        return self.render(self.scene)

    @cached_property
    def fit(self) -> PaintFit:
        """Return the fit of the paint.

        When inpainting, only the masked paint counts, and its marks must continue the visible ones.
        """
        region, mask = _inside(self.answer.painted >= _SOLID), self.example.mask
        if self.example.task != "inpaint" or mask is None:
            return fit_paint(self.output, self.scene, region)
        return fit_paint(self.output, self.scene, region & (mask > 0), offsets=(0.0,))

    def colour(self) -> bool:
        errors = {name: _colour_error(self.fit, name) for name in PALETTE}
        right = errors[self.scene.paint.colour]
        return right == min(errors.values()) and right <= MAX_COLOUR_ERROR

    def pattern(self) -> bool:
        paint = self.scene.paint
        same = (self.fit.pattern, self.fit.tone) == (paint.pattern, paint.tone)
        return same and self.fit.unexplained <= MAX_UNEXPLAINED

    def shape(self) -> bool:
        backdrop = self.render(empty(self.scene)).picture
        mask = self.example.mask
        region = np.ones(backdrop.shape[:2], bool) if mask is None else mask > 0
        seen, fits = _foreground(self.output, backdrop)[region], {}
        for kind in PRODUCTS:
            picture = self.render(replace(self.scene, kind=kind)).picture
            wanted = _foreground(picture, backdrop)[region]
            fits[kind] = np.minimum(seen, wanted).sum() / np.maximum(seen, wanted).sum()
        right = fits[str(self.scene.kind)]
        return bool(right == max(fits.values()) and right >= MIN_SHAPE)

    def background(self) -> bool:
        """Return whether the background is right, where it is visible and inside any mask."""
        region, mask = _inside(~self.answer.footprint), self.example.mask
        if mask is not None:
            region &= mask > 0
        if region.mean() < _FEW:
            return True
        errors = {}
        for name in BACKGROUNDS:
            candidate = self.render(empty(replace(self.scene, background=name)))
            errors[name] = rms(self.output[region], candidate.picture[region])
        right = errors[self.scene.background]
        return right <= min(errors.values()) * _NEAREST and right <= MAX_BACKGROUND_ERROR

    def kept(self) -> bool:
        """Return whether all is unchanged outside the mask, or outside the paint if recoloured."""
        mask, limit = self.example.mask, MAX_KEPT_ERROR
        assert mask is not None
        if self.example.task == "recolour":
            mask = self.answer.painted
        elif self.example.task == "background":
            limit = MAX_KEPT_PRODUCT_ERROR
        region = _inside(mask == 0)
        return mean_error(self.example.target, self.output, region) <= limit

    def detail(self) -> bool:
        return edge_correlation(self.example.target, self.output) >= MIN_DETAIL
