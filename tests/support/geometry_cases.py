"""Random items of every geometry, and models that give back what they are shown.

The property test and the benchmark share them: odd sizes, aspects up to 16, sides of 20 and of
6000 px, with and without masks and references. The benchmark's case n is the same for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.lcu.canvas import LCU
from ace_tasks.model.variants import find_variant
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.specs import PixelSettings, Resolved, Source, Sources, parse_spec, resolve

_SIDES = (20, 21, 31, 64, 97, 128, 200, 333, 512, 777, 1000, 1501, 3001, 6000)
MAX_ASPECT, MAX_PX = 16, 700_000
EXTREMES = ((6000, 375), (375, 6000), (20, 20), (320, 20), (20, 320), (16, 256), (1600, 100))
BUDGETS = (256, 1024, 4096)  # tokens


@dataclass(frozen=True)
class Case:
    number: int
    size: tuple[int, int]  # (width, height)
    shape: dict[str, Any] | None  # of the mask, as a row has it; px
    references: tuple[tuple[int, int], ...]
    budget: int  # tokens

    def resolved(self, settings: PixelSettings = PixelSettings()) -> Resolved:  # noqa: B008
        """Resolve it as a row, except that nothing is erased: a model can give all of it back."""
        task = "edit" if self.shape is None else "try_on" if self.references else "fill"
        row = {"id": "a", "prompt": "p", "task": task, "image": "a"}
        row |= {"mask": self.shape} if self.shape else {}
        row |= {"reference": ["r"] * len(self.references)} if task == "try_on" else {}
        source = Source(uri="a", sha256="0" * 64)
        given = Sources(image=source, reference=(source,) * len(self.references))
        model = find_variant("toy").identity().model_copy(update={"max_seq_len": self.budget})
        resolved = resolve(parse_spec(row), given, model, settings)
        return resolved.model_copy(update={"repainting_scale": 0.0})

    def pictures(self) -> Pictures:
        references = tuple(picture(size, 900 + n) for n, size in enumerate(self.references))
        return Pictures(picture(self.size, self.number), None, references)


def draw_case(number: int) -> Case:
    rng = np.random.default_rng([6, number])
    size = EXTREMES[number] if number < len(EXTREMES) else _draw_size(rng)
    shape = _draw_shape(rng, *size) if number % 4 else None
    references: tuple[tuple[int, int], ...] = ()
    if shape and number % 2:  # beside what is edited whole no row has one
        references = tuple(_draw_size(rng) for _ in range(int(rng.integers(1, 3))))
    return Case(number, size, shape, references, int(rng.choice(BUDGETS)))


@st.composite
def sizes(draw: st.DrawFn, longest: int, most_px: int = 1 << 30) -> tuple[int, int]:
    """Draw any size of at least 16 px a side and an aspect of at most 16."""
    side = draw(st.integers(16, longest))
    least = max(16, -(-side // MAX_ASPECT))
    size = side, draw(st.integers(least, min(side, most_px // side)))
    return size if draw(st.booleans()) else size[::-1]


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    while True:
        width, height = (int(side) for side in rng.choice(_SIDES, 2))
        if width * height <= MAX_PX and max(width, height) <= MAX_ASPECT * min(width, height):
            return width, height


def _draw_shape(rng: np.random.Generator, width: int, height: int) -> dict[str, Any]:
    """Draw a shape of one pixel, of the whole picture or of anything between."""
    across, down = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (width, height))
    if not rng.integers(0, 3):  # small, where windows are
        across[1], down[1] = min(across[1], across[0] + 9), min(down[1], down[0] + 9)
    corners = [
        max(float(each), 1.5 * (n > 1))
        for n, each in enumerate((across[0], down[0], across[1], down[1]))
    ]
    return {str(rng.choice(["box", "ellipse"])): corners}


def picture(size: tuple[int, int], seed: int) -> Picture:
    """Make a picture of three slow waves, which survives being scaled."""
    rng = np.random.default_rng(seed)
    x, y = np.linspace(0, 1, size[0], dtype=np.float32), np.linspace(0, 1, size[1])[:, None]
    waves = [
        np.round(127 + 120 * np.sin(2 * np.pi * (a * x + b * y.astype(np.float32) + c)))
        for a, b, c in rng.random((3, 3)).astype(np.float32)
    ]
    return Picture(np.stack(waves, axis=-1).astype(np.uint8), None, "png", None)


def shown(prepared: PictureEdit) -> np.ndarray:
    """Return the answer of a model that changes nothing, (H, W, 3) uint8."""
    assert prepared.unit is not None
    return answer(prepared.unit)


def answer(unit: LCU) -> np.ndarray:
    """Return the canvas that the model sees, as if it gave it back: (H, W, 3) uint8."""
    assert unit.change_CHW is not None
    canvas = unit.edit_CHW + unit.change_CHW
    return ((canvas + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR in dB, infinite for equal pictures."""
    error = np.mean((a.astype(np.float32) - b) ** 2, dtype=np.float64)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
