"""Automatic scores of one finished picture, against its source, mask and references.

They need no model and no correct answer. They tell broken pictures from sound ones and order the
candidates of one item. They do not know what the prompt asked for, unless a CLIP score is given.
They measure what a viewer sees (on white), in the file's 8-bit values, on a copy of at most 4
megapixels around the repainted part. The same pictures always have the same scores.

The total in [0, 1] is the weighted geometric mean of the scores' qualities (`_QUALITIES`). A
quality of 0 makes it 0. A score that cannot be measured is left out.

Legend: H height, W width, N pixels of a region; bands are boolean (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ace_tasks.images.paste import THRESHOLD, distance_inside, touched
from ace_tasks.provenance.record import Scores

ClipScore = Callable[[np.ndarray, str], float]
"""Maps a picture, uint8 (H, W, 3), and its prompt to a cosine similarity in [-1, 1]."""

_MAX_PX = 4_000_000
_BAND_SHARE, _MIN_BAND_PX, _MAX_BAND_PX = 0.05, 2, 24  # share of the root of the mask's area
_CLIPPED = 3  # levels from black or white, in all channels: no detail is left
_VARIED = 8.0  # levels of standard deviation; above it nothing is blank
_PLAIN = 2.0  # levels; below it a source was blank itself
_SAME_COLOUR = 6.0  # Lab distance; a flat repair in the colour of its surroundings is a good one
_BINS = 8  # base number of bins of a channel in colour histograms
_LAB_ENDS = ((0, 100), (-100, 100), (-100, 100))  # values beyond count at the ends
_SAMPLED_PX = 2**18  # this many give a mean colour distance as well as all pixels do


@dataclass(frozen=True, eq=False)
class ScoreInputs:
    """The pictures to score. Pictures are uint8 (H, W, 3), the mask is uint8 (H, W).

    `original` and `mask` have the size of `made`, or are None. `erased` means that the model did
    not see what the mask covered, so the original does not show what should be there.
    """

    made: np.ndarray
    original: np.ndarray | None = None
    mask: np.ndarray | None = None
    references: Sequence[np.ndarray] = ()
    feather_px: int = 0
    erased: bool = True


def score(
    inputs: ScoreInputs,
    outside: float | None = None,
    prompt: str = "",
    clip: ClipScore | None = None,
) -> Scores:
    """Compute all scores and their total.

    `outside` is the score that paste measured, in levels, or None. With a mask that selects nothing
    there is nothing to judge, and the total is 1.
    """
    if inputs.mask is not None and not (inputs.mask > THRESHOLD).any():
        return Scores(total=1.0)
    close = close_up(inputs)
    values: dict[str, float | None] = {
        "sharpness": sharpness(close),
        "clipping": clipping(close),
        "blankness": blankness(close),
        "seam": seam(close),
        "outside": outside,
        "colour_shift": colour_shift(close),
        "change": change(close),
        "likeness": likeness(close),
        "clip": clip(inputs.made, prompt) if clip else None,
    }
    rounded = {name: None if v is None else round(v, 4) for name, v in values.items()}
    return Scores(total=total(rounded), **rounded)


def sharpness(close: CloseUp) -> float | None:
    """Return the variance of the Laplacian in the repainted part over that of its surroundings.

    The ratio is in [0, ∞), best at 1: less is blur, far more is noise. The surroundings are the
    original around the mask, the whole original without a mask, or the references without an
    original.
    """
    if close.original is not None:
        base = close.original[close.ring] if close.ring.any() else None
        detail = _laplacian(close.original)
        around = detail[close.ring] if base is not None else detail.ravel()
    elif close.references:
        around = np.concatenate([_laplacian(each).ravel() for each in close.references])
    else:
        return None
    return float((_laplacian(close.made)[close.inside].var() + 1) / (around.var() + 1))


def clipping(close: CloseUp) -> float:
    """Return the share of repainted pixels at black or white beyond the original's share.

    It is in [0, 1], best 0. The original's share is the larger of the part's own and that of its
    surroundings, so a product on pure white may stay so.
    """
    share = _clipped(close.made, close.part)
    if close.original is not None:
        regions = [each for each in (close.part, close.ring) if each.any()]
        share -= max(_clipped(close.original, each) for each in regions)
    return max(0.0, share)


def blankness(close: CloseUp) -> float:
    """Return how close the repainted part is to a single colour, in [0, 1], best 0.

    It is 1 less the ratio of standard deviations of the part and of the source there. The source's
    counts up to 8 levels. It is 0 where the source was blank itself, or where the part has the
    colour of its surroundings.
    """
    expected = _VARIED
    if close.original is not None:
        expected = min(_VARIED, _spread(close.original, close.part))
    if expected < _PLAIN or (close.ring.any() and _rim_shift(close, close.made) <= _SAME_COLOUR):
        return 0.0
    return max(0.0, 1 - _spread(close.made, close.part) / expected)


def seam(close: CloseUp) -> float | None:
    """Return the gradient across the mask's edge beyond that just inside and outside.

    It is in levels per pixel, in [0, 255], best 0. An edge that the original had already does not
    count, unless the model did not see it. None without a mask, or with nothing outside it.
    """
    if not (close.edge.any() and close.ring.any()):
        return None
    steepness = _steepness(close.made)
    usual = max(float(steepness[each].mean()) for each in (close.inside, close.ring) if each.any())
    if close.original is not None and not close.erased:
        usual = max(usual, float(_steepness(close.original)[close.edge].mean()))
    return max(0.0, float(steepness[close.edge].mean()) - usual)


def colour_shift(close: CloseUp) -> float | None:
    """Return the Lab distance (ΔE 1976) from the rim of the repainted part to the ring around it.

    It is in [0, ∞), best 0. The original's own distance is subtracted, unless the model did not see
    it. None without a mask, or with nothing outside it.
    """
    if not (close.rim.any() and close.ring.any()):
        return None
    shift = _rim_shift(close, close.made)
    if close.original is not None and not close.erased:
        shift -= _rim_shift(close, close.original)
    return max(0.0, shift)


def change(close: CloseUp) -> float | None:
    """Return the mean Lab distance of the repainted part to the original; [0, ∞), more is better.

    It only tells an edit that did nothing from one that did something. None without an original.
    """
    if close.original is None:
        return None
    difference = _lab_at(close.made, close.sample) - _lab_at(close.original, close.sample)
    return float(np.linalg.norm(difference, axis=1).mean())


def likeness(close: CloseUp) -> float | None:
    """Return the share of the references' colours found in the repainted part; [0, 1], best 1.

    This is the intersection of Lab histograms. Areas of a reference with the colour of its border
    are taken for its backdrop and do not count. None without references, or if they are all
    backdrop.
    """
    wanted = [each for each in map(_foreground, close.references) if len(each)]
    if not wanted:
        return None
    made = _histogram(_lab(close.made)[close.part])
    shares = [float(np.minimum(made, _histogram(each)).sum()) for each in wanted]
    return sum(shares) / len(shares)


# Maps a score to its weight and to a function from its value to a quality in [0, 1]. Values within
# tolerance have full quality: small differences in finish do not show whether the picture is what
# was wanted, and among candidates of `mini` they outvoted likeness, which does show it.
_QUALITIES: dict[str, tuple[float, Callable[[float], float]]] = {
    "sharpness": (0.5, lambda ratio: min(1.0, 3 / (abs(math.log2(max(ratio, 1e-4))) + 1e-4))),
    "clipping": (1.0, lambda share: 1 - share),
    "blankness": (1.0, lambda blank: 1 - blank),
    "seam": (1.0, lambda levels: 1 / (1 + levels / 8)),
    "outside": (1.0, lambda levels: 1 / (1 + max(0.0, levels - 8) / 8)),
    "colour_shift": (1.0, lambda distance: 1 / (1 + max(0.0, distance - 8) / 16)),
    "change": (1.0, lambda distance: 1 - math.exp(-distance)),
    "likeness": (2.0, lambda share: share),
    "clip": (4.0, lambda cosine: min(1.0, max(0.0, cosine / 0.4))),
}


def total(values: dict[str, float | None]) -> float:
    """Return the weighted geometric mean of the known scores' qualities; [0, 1], more is better."""
    known = [(*_QUALITIES[name], value) for name, value in values.items() if value is not None]
    qualities = [(weight, quality(value)) for weight, quality, value in known]
    if not qualities or min(q for _, q in qualities) <= 0:
        return 0.0 if qualities else 1.0
    logs = sum(weight * math.log(q) for weight, q in qualities)
    return round(math.exp(logs / sum(weight for weight, _ in qualities)), 4)


# ---------------------------------------------------------------- regions


@dataclass(frozen=True, eq=False)
class CloseUp:
    """The repainted part and its surroundings, small enough to be measured in float32."""

    made: np.ndarray
    original: np.ndarray | None
    references: tuple[np.ndarray, ...]
    part: np.ndarray  # (H, W) bool: repainted
    feather_px: int
    erased: bool

    @cached_property
    def band_px(self) -> int:
        share = _BAND_SHARE * math.sqrt(int(self.part.sum()))
        return int(min(max(_MIN_BAND_PX, share), _MAX_BAND_PX))

    @cached_property
    def sample(self) -> np.ndarray:
        """Return flat indices of repainted pixels, evenly spaced; all of a small part."""
        part = np.flatnonzero(self.part)
        return part[:: len(part) // _SAMPLED_PX + 1]

    @cached_property
    def depth(self) -> np.ndarray:
        """Return the distance of each repainted pixel to the nearest other one; 0 outside."""
        if self.part.all():  # there is no outside to measure to
            return np.full(self.part.shape, np.inf, np.float32)
        return distance_inside(self.part)

    @cached_property
    def height(self) -> np.ndarray:
        """Return the distance of each pixel outside to the nearest repainted one; 0 inside."""
        return distance_inside(~self.part)

    @cached_property
    def inside(self) -> np.ndarray:
        """Return the repainted part without its edge, or all of it if it is nothing but edge."""
        inside = self.depth > 1.5 if not self.part.all() else self.part
        return inside if inside.any() else self.part

    @cached_property
    def rim(self) -> np.ndarray:
        return self.part & (self.depth <= self.band_px)

    @cached_property
    def edge(self) -> np.ndarray:
        """Return one pixel inside the edge, and the blended pixels outside."""
        outside = ~self.part & (self.height <= max(1.5, self.feather_px))
        return (self.part & (self.depth <= 1.5)) | outside

    @cached_property
    def ring(self) -> np.ndarray:
        """Return the ring outside, beyond the feather: the original's own pixels."""
        start = max(1.5, self.feather_px)
        return ~self.part & (self.height > start) & (self.height <= start + 3 * self.band_px)


def close_up(inputs: ScoreInputs) -> CloseUp:
    """Cut out the mask with its surroundings, scaled to at most `_MAX_PX` pixels."""
    made, original, mask, feather_px = inputs.made, inputs.original, inputs.mask, inputs.feather_px
    if mask is not None:
        window = touched(mask, feather_px + 3 * _MAX_BAND_PX + 2)
        made, mask = window.cut(made), window.cut(mask)
        original = None if original is None else window.cut(original)
    height, width = made.shape[:2]
    scale = math.sqrt(min(1.0, _MAX_PX / (height * width)))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    part = np.ones((size[1], size[0]), bool)
    if mask is not None:
        part = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT) > THRESHOLD
        if not part.any():  # it selects specks that lie between the pixels that were taken
            rows, columns = np.nonzero(mask > THRESHOLD)
            part[rows * size[1] // height, columns * size[0] // width] = True
    return CloseUp(
        made=_fitted(made, size),
        original=None if original is None else _fitted(original, size),
        references=tuple(_as_large(each, size) for each in inputs.references),
        part=part,
        feather_px=math.ceil(feather_px * scale),
        erased=inputs.erased,
    )


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[1::-1] == size:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _as_large(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink a reference, at its own aspect, to at most as many pixels as `size` has."""
    height, width = picture.shape[:2]
    scale = math.sqrt(min(1.0, size[0] * size[1] / (height * width)))
    return _fitted(picture, (max(1, round(width * scale)), max(1, round(height * scale))))


def _laplacian(picture: np.ndarray) -> np.ndarray:
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
    return np.asarray(cv2.Laplacian(grey, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE))


def _steepness(picture: np.ndarray) -> np.ndarray:
    """Return the largest gradient of the three channels, (H, W), in levels per pixel (Scharr)."""
    floats = picture.astype(np.float32)
    along = [cv2.Scharr(floats, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1))]
    return np.asarray(np.hypot(*along).max(axis=2))


def _clipped(picture: np.ndarray, region: np.ndarray) -> float:
    """Return the share of a region's pixels at black or white."""
    dark = cv2.inRange(picture, (0, 0, 0), (_CLIPPED - 1,) * 3)
    light = cv2.inRange(picture, (256 - _CLIPPED,) * 3, (255, 255, 255))
    return np.count_nonzero(cv2.bitwise_or(dark, light)[region]) / np.count_nonzero(region)


def _spread(picture: np.ndarray, region: np.ndarray) -> float:
    """Return the standard deviation, in levels, of the channel that varies most."""
    # OpenCV sums in double precision. NumPy's float32 sums, column by column, would find a
    # deviation of 3 levels in 4 megapixels of one colour.
    _, deviation = cv2.meanStdDev(picture, mask=region.view(np.uint8))
    return float(deviation.max())


def _rim_shift(close: CloseUp, picture: np.ndarray) -> float:
    rim, ring = (
        _lab_at(picture, np.flatnonzero(each)).mean(axis=0, dtype=np.float64)
        for each in (close.rim, close.ring)
    )
    return float(np.linalg.norm(rim - ring))


def _lab(picture: np.ndarray) -> np.ndarray:
    """Convert to CIE Lab, as if the picture were sRGB; L is in [0, 100]."""
    return np.asarray(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def _lab_at(picture: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the Lab colours (N, 3) of the pixels at flat indices."""
    return np.asarray(_lab(picture.reshape(-1, 3)[indices][None])[0])


def _foreground(reference: np.ndarray) -> np.ndarray:
    """Return the Lab colours (N, 3) of a reference without its backdrop."""
    lab = _lab(reference)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    return np.asarray(lab[np.linalg.norm(lab - np.median(border, axis=0), axis=2) > 20])


def _histogram(lab_N3: np.ndarray) -> np.ndarray:
    """Return the shares of colours, with a and b twice as fine as L, since light differs by place.

    The histogram is blurred, so that near colours overlap wherever the edges of bins lie: flat
    colours one bin apart in a by 0.6, three bins by 0.1.
    """
    bins = (_BINS // 2, 2 * _BINS, 2 * _BINS)
    within = np.clip(lab_N3, *np.array(_LAB_ENDS).T)
    counts, _ = np.histogramdd(within, bins=bins, range=_LAB_ENDS)
    lightness, a, b = (_blur(count, width) for count, width in zip(bins, (0.5, 1, 1), strict=True))
    shares = counts / max(1, len(lab_N3))
    return np.asarray(np.einsum("il,jm,kn,lmn->ijk", lightness, a, b, shares))


def _blur(bins: int, width: float) -> np.ndarray:
    """Return a Gaussian over bins, as a matrix that loses nothing at the ends.

    `width` is its sigma in bins.
    """
    at = np.arange(bins)
    kernel = np.exp(-((at[:, None] - at) ** 2) / (2 * width**2))
    return np.asarray(kernel / kernel.sum(axis=0))
