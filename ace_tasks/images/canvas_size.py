"""Sizes of target and references on the canvas, by policy `catalog`. Needs no pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ace_tasks.errors import BadImage
from ace_tasks.wording import counted

TOKEN_PX = 16  # one token is 2×2 latents of 8×8 pixels
MAX_ASPECT = 4  # no model was trained on longer pictures

Size = tuple[int, int]  # (width, height), px
_BISECTIONS = 40  # ends finer than one pixel of any picture


@dataclass(frozen=True)
class Layout:
    """The sizes on the canvas, in px, for one scale of the target."""

    scale: float
    target: Size
    frame: Size  # the target and its padding, in whole tokens
    references: tuple[Size, ...]

    @property
    def seam(self) -> int:
        """Return the width left of the frame, in whole tokens."""
        return _whole_tokens(sum(width for width, _ in self.references))

    @property
    def tokens(self) -> int:
        return (self.seam + self.frame[0]) // TOKEN_PX * (self.frame[1] // TOKEN_PX)

    @property
    def offset(self) -> tuple[int, int]:
        """Return (left, top) of the target in its frame, on the token grid."""
        (width, height), (frame_w, frame_h) = self.target, self.frame
        left, top = (frame_w - width) // 2, (frame_h - height) // 2
        return left // TOKEN_PX * TOKEN_PX, top // TOKEN_PX * TOKEN_PX


def lay_out(
    target: Size, references: Sequence[Size], max_seq_len: int, keep_pixels_rate: float | None
) -> Layout:
    """Return the largest layout within the token budget. It never enlarges the target.

    Raises BadImage if not even a few pixels of the target fit beside its references.
    """

    def at(scale: float) -> Layout:
        return at_scale(scale, target, references, keep_pixels_rate)

    if at(1.0).tokens <= max_seq_len:
        return at(1.0)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).tokens <= max_seq_len else (low, middle)
    if not low:
        raise BadImage(
            f"accepted: at most {max_seq_len} tokens of {TOKEN_PX}×{TOKEN_PX} px; given "
            f"{target[0]}×{target[1]} with {counted(len(references), 'reference')}"
        )
    return at(low)


def at_scale(
    scale: float, target: Size, references: Sequence[Size], keep_pixels_rate: float | None
) -> Layout:
    """Return the layout with the target at `scale` of its size."""
    width, height = (max(1, round(side * scale)) for side in target)
    frame_w = _whole_tokens(max(width, -(-height // MAX_ASPECT)))
    frame_h = _whole_tokens(max(height, -(-width // MAX_ASPECT)))
    sizes = tuple(_beside(each, frame_h, keep_pixels_rate) for each in references)
    return Layout(scale, (width, height), (frame_w, frame_h), sizes)


def _beside(reference: Size, frame_h: int, keep_pixels_rate: float | None) -> Size:
    """Return the size of a reference on the canvas.

    It gets the frame's height or, with a `keep_pixels_rate`, at most that share of it and never
    more than its own height.
    """
    width, height = reference
    wanted = frame_h if keep_pixels_rate is None else min(height, int(frame_h * keep_pixels_rate))
    scale = min(wanted / height, MAX_ASPECT * frame_h / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _whole_tokens(px: int) -> int:
    return -(-px // TOKEN_PX) * TOKEN_PX
