"""A photograph of 40 megapixels with a mask of 2 %: seconds and memory by phase, and sharpness.

    python -m tests.benchmarks.large_photo [--picture out/large_photo.png] [--formats jpeg,png]

The photograph is a sample of this project, enlarged, with fine grain laid over it. It goes through
a window round its mask and, to compare, through the model as a whole; with a model that gives back
what it is shown, and with `mini`. Each way runs in a process of its own, so that its peak is its
own. Sharpness: variance of the Laplacian of the repaired part, over that of the original.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ace_tasks.images import codec
from ace_tasks.images.codec import Pictures
from ace_tasks.images.paste import Window
from ace_tasks.model.ace import AceModel
from ace_tasks.model.variants import find_variant
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.settings import ImageLimits, WeightsSettings
from ace_tasks.specs import PasteSettings, PixelSettings, Source, Sources, parse_spec, resolve
from tests.support.geometry_cases import shown

SAMPLE = Path("infra/sample/photos/china.jpg")
SIZE = (7744, 5168)  # 40.0 MP
SHARE = 0.02
_FLUX_TOKENS = 4096  # budget of the model that gives back what it sees


def make_photo() -> bytes:
    """A JPEG as a camera writes it: large, with detail down to its pixels."""
    with Image.open(SAMPLE) as sample:
        large = np.asarray(sample.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC))
    grain = np.random.default_rng(0).normal(0, 10, (SIZE[1], SIZE[0], 1)).astype(np.float32)
    fine = cv2.GaussianBlur(grain, (0, 0), 0.8)[..., None] * 2
    photo = np.clip(large + fine, 0, 255).astype(np.uint8)
    return codec.encode(photo, "jpeg", 92)


def mask_box() -> tuple[float, float, float, float]:
    """A square of SHARE of the picture, on the temple's roof."""
    side = (SHARE * SIZE[0] * SIZE[1]) ** 0.5
    left, top = 0.35 * SIZE[0], 0.3 * SIZE[1]
    return left, top, left + side, top + side


class Phases:
    """Seconds and peak memory of each phase of a process."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        used = _cpu_s()
        yield
        peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
        self.found[name] = (round(_cpu_s() - used, 2), round(int(peak) / 1024))


def _cpu_s() -> float:
    """Of all threads: a shared machine's clock says little."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(model: str, window: bool, formats: list[str]) -> dict[str, Any]:
    """One way, in this process: its phases, its sharpness, and the repaired part as PNG (hex)."""
    data = make_photo()
    row = {"id": "a", "task": "edit", "image": "a", "prompt": "repair", "mask": {"box": mask_box()}}
    source = Sources(image=Source(uri="a", sha256="0" * 64))
    variant = find_variant(model if model == "mini" else "toy")
    identity = variant.identity()
    if model != "mini":
        identity = identity.model_copy(update={"max_seq_len": _FLUX_TOKENS})
    settings = PixelSettings(paste=PasteSettings(crop_to_mask=window))
    resolved = resolve(parse_spec(row), source, identity, settings)
    if model != "mini":
        resolved = resolved.model_copy(update={"repainting_scale": 0.0})
    ace = None
    if model == "mini":
        ace = AceModel.load(variant, WeightsSettings(folder=Path("unused")), "cpu")
    phases = Phases()
    started = time.monotonic()
    with phases.phase("decode"):
        picture = codec.decode(data, ImageLimits())
    pictures = Pictures(picture, None, ())
    with phases.phase("prepare"):
        prepared = PictureEdit.prepare(resolved, pictures, route="fft")
    with phases.phase("model"):
        canvas = shown(prepared)
        if ace is not None:
            (canvas,) = ace.generate(prepared.jobs([1]))
    with phases.phase("finish"):
        finished = prepared.finish(canvas)
    for format_ in formats:
        with phases.phase(f"encode {format_}"):
            codec.encode(finished.rgb, format_, None)  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    box = Window(*(round(each) for each in mask_box()))
    original, repaired = box.cut(picture.rgb), box.cut(finished.rgb)
    assert prepared.window is not None
    assert finished.difference is not None
    part = io.BytesIO()
    Image.fromarray(repaired[:500, :500]).save(part, "PNG")
    return {
        "phases": phases.found,
        "seconds": round(seconds, 1),
        "window": prepared.window.size,
        "canvas": (prepared.geometry.canvas_w, prepared.geometry.canvas_h),
        "sharpness": round(_sharpness(repaired) / _sharpness(original), 3),
        "outside_max": finished.difference.outside_max,
        "part": part.getvalue().hex(),
        "original": codec.encode(original[:500, :500], "png", None).hex(),
    }


def _sharpness(rgb: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def table(results: dict[tuple[str, bool], dict[str, Any]]) -> str:
    """Markdown; each phase as CPU seconds and the peak of the whole process in MB."""
    phases = list(next(iter(results.values()))["phases"])
    lines = [
        f"| model | sees | {' | '.join(phases)} | sharpness |",
        f"|---|---|{'---|' * len(phases)}---|",
    ]
    for (model, window), found in results.items():
        times = " | ".join(f"{s} s, {mb} MB" for s, mb in found["phases"].values())
        sees = "{}×{} in {}×{}".format(*found["window"], *found["canvas"])
        name = f"{model}, {'window' if window else 'whole picture'}"
        lines.append(f"| {name} | {sees} | {times} | {found['sharpness']:.0%} |")
    return "\n".join(lines)


def side_by_side(results: dict[tuple[str, bool], dict[str, Any]], place: Path) -> None:
    """The original's corner of the mask, then each way's."""
    first = next(iter(results.values()))
    parts = [first["original"], *(found["part"] for found in results.values())]
    tiles = [np.asarray(Image.open(io.BytesIO(bytes.fromhex(part)))) for part in parts]
    spaced = [np.pad(tile, ((0, 0), (0, 12), (0, 0)), constant_values=255) for tile in tiles]
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(spaced, axis=1)).save(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path, default=Path("out/large_photo.png"))
    parser.add_argument("--formats", default="jpeg,png")
    parser.add_argument("--only", nargs=2, metavar=("MODEL", "WINDOW"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    formats = arguments.formats.split(",")
    if arguments.only:
        model, window = arguments.only
        print(json.dumps(run(model, window == "yes", formats)))
        return
    results = {}
    for model in ("gives back", "mini"):
        for window in (True, False):
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.large_photo",
                "--formats",
                arguments.formats,
                "--only",
                model,
                "yes" if window else "no",
            ]
            child = subprocess.run(command, capture_output=True, text=True, check=True)
            results[model, window] = json.loads(child.stdout.splitlines()[-1])
    print(table(results))
    side_by_side(results, arguments.picture)
    print(f"\n{arguments.picture}: the original, then each row's")


if __name__ == "__main__":
    main()
