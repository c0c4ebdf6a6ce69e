"""The share of a picture that comes back: upstream's geometry (policy `reference`) beside ours.

    python -m tests.benchmarks.geometry

Both get the cases of tests/support/geometry_cases.py, with a model that gives back what it is shown. Kept
width: which of a picture's columns are in what is cut out of the canvas, read off a ramp from
left to right. PSNR: of the finished picture against its source; one of another size is scaled
back first, as a shop would have to.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from ace_tasks.errors import BadImage
from ace_tasks.images.codec import Pictures
from ace_tasks.lcu.upstream import _SEAM_CROP_PX
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.specs import PixelSettings
from tests.support.geometry_cases import Case, draw_case, picture, psnr, shown

Policy = Literal["reference", "catalog"]


@dataclass(frozen=True)
class Kept:
    """The rest of one case. None: the policy refuses it."""

    width: float  # share of its columns, 0-1
    size: bool  # whether it comes back in its own
    psnr_db: float


def measure(case: Case, policy: Policy) -> Kept | None:
    # The paste-back would hide what the geometry does; so would a window.
    settings = PixelSettings(geometry=policy)
    resolved = case.resolved(settings).model_copy(update={"paste": None})
    given = case.pictures()
    assert given.image is not None
    try:
        prepared = PictureEdit.prepare(resolved, given, route="fft")
    except BadImage:
        return None
    finished = prepared.finish(shown(prepared)).rgb
    height, width = given.image.rgb.shape[:2]
    same = finished.shape[:2] == (height, width)
    if not same:
        scaled = Image.fromarray(finished).resize((width, height), Image.Resampling.LANCZOS)
        finished = np.asarray(scaled)
    ramp = np.broadcast_to(
        np.linspace(0, 255, width).round().astype(np.uint8)[None, :, None], (height, width, 3)
    )
    beside = tuple(
        replace(picture(size, 0), rgb=np.zeros((*size[::-1], 3), np.uint8))
        for size in case.references
    )
    ramps = Pictures(replace(given.image, rgb=np.ascontiguousarray(ramp)), None, beside)
    target = _cut(PictureEdit.prepare(resolved, ramps, route="fft"))
    return Kept(np.ptp(target) / 255, same, psnr(finished, given.image.rgb))


def _cut(prepared: PictureEdit) -> np.ndarray:
    """What a policy takes out of the canvas."""
    geometry, canvas = prepared.geometry, shown(prepared)
    if geometry.target is None:
        return canvas[:, geometry.slice_w + _SEAM_CROP_PX :] if geometry.slice_w else canvas
    left, top, right, bottom = geometry.target
    return canvas[top:bottom, left:right]


def table(cases: Sequence[Case]) -> str:
    """Markdown: a line for each policy, over the cases that both accept."""
    policies: tuple[Policy, Policy] = ("reference", "catalog")
    found = {policy: [measure(case, policy) for case in cases] for policy in policies}
    both = [n for n in range(len(cases)) if all(found[policy][n] for policy in found)]
    beside = [n for n in both if cases[n].references]
    lines = [
        f"{len(cases)} cases; {len(both)} that both accept, {len(beside)} of them with references",
        "",
        "| policy | refused | kept width, with references | all | own size | PSNR, median | worst | "
        "lossless |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy, results in found.items():
        kept = [result for n in both if (result := results[n])]
        with_references = [result for n in beside if (result := results[n])]
        ratios = [result.psnr_db for result in kept]
        lines.append(
            f"| `{policy}` | {results.count(None)} "
            f"| {statistics.mean(each.width for each in with_references):.1%} "
            f"(least {min(each.width for each in with_references):.0%}) "
            f"| {statistics.mean(each.width for each in kept):.1%} "
            f"| {statistics.mean(each.size for each in kept):.0%} "
            f"| {statistics.median(ratios):.1f} dB | {min(ratios):.1f} dB "
            f"| {statistics.mean(map(math.isinf, ratios)):.0%} |"
        )
    return "\n".join(lines)


def _photograph(number: int) -> Case:
    """Sides of 768 to 1536 px, a mask in the middle, one reference; upstream's own budget."""
    rng = np.random.default_rng([7, number])
    (width, height), reference = rng.integers(768, 1537, (2, 2))
    box = [float(side) for side in (width // 4, height // 4, width // 2, height // 2)]
    return Case(
        number, (int(width), int(height)), {"box": box}, (tuple(map(int, reference)),), 4096
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    arguments = parser.parse_args()
    print("Ordinary photographs:", table([_photograph(n) for n in range(arguments.cases // 4)]))
    print("\nAnything:", table([draw_case(number) for number in range(arguments.cases)]))


if __name__ == "__main__":
    main()
