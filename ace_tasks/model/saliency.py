"""Salient-object networks: U-2-Net, and other ONNX networks of its form. No torch is loaded.

Such a network takes one picture (1, 3, h, w) of a fixed size. Its first output is one map
(1, 1, h, w) of how much each part stands out. u2netp comes with this package.

Legend: h and w the network's own resolution, H and W the picture's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from ace_tasks.errors import BadMask, WeightsError
from ace_tasks.images import matting
from ace_tasks.model.dnn import SHIPPED, U2NET, Network, shipped_sha256
from ace_tasks.model.onnx import Graph, read_graph
from ace_tasks.model.places import Folder, read_file, read_json

_CONFIG = "preprocessor_config.json"
_MOST_PX = 4096 * 4096  # of a network's input
# If no value reaches this, nothing stands out: stretched to 0-1, a blank wall's map would be noise.
_LEAST = 0.5


@dataclass(frozen=True)
class _Preparation:
    """The preparation of a picture as a network's input.

    Without `scale` the picture is divided by its maximum.
    """

    size_px: tuple[int, int]  # (width, height)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet, as U-2-Net was trained
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: float | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Convert (H, W, 3) uint8 to (1, 3, h, w) float32."""
        small = Image.fromarray(picture).resize(self.size_px, Image.Resampling.LANCZOS)
        values: Any = np.asarray(small, np.float32)
        values = values / max(float(values.max()), 1) if self.scale is None else values * self.scale
        mean, deviation = np.array([self.mean, self.deviation], np.float32)
        values = (values - mean) / deviation
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def is_network(hashes: Mapping[str, str]) -> bool:
    """Return whether a folder with these files holds an ONNX network and no weights for torch."""
    endings = {Path(name).suffix for name in hashes}
    return ".onnx" in endings and ".safetensors" not in endings


class Saliency:
    """A network that finds what stands out in a picture. Thread-safe."""

    def __init__(self, network: Network, output: str, prepare: _Preparation):
        self._network = network
        self._output = output
        self._prepare = prepare

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the only `.onnx` file of a pinned folder. Raises WeightsError.

        Pictures are prepared as its preprocessor_config.json says, or else as U-2-Net's authors do.
        """
        hashes = Folder(folder).manifest()
        names = [name for name in hashes if name.endswith(".onnx")]
        if len(names) != 1:
            given = ", ".join(names) or "none"
            raise WeightsError(f"{folder}: accepted: one .onnx file; given {given}")
        path = folder / names[0]
        data = read_file(path)
        graph = _graph(data, path)
        config = read_json(folder / _CONFIG) if _CONFIG in hashes else {}
        network = Network.load(path, hashes[names[0]], data)
        prepare = _preparation(_input_size(graph, config, path), config, folder / _CONFIG)
        return cls(network, _first_output(graph, path), prepare)

    def map(self, picture: np.ndarray) -> np.ndarray:
        """Map how much each part of a picture stands out, as (h, w) float32 in 0..1.

        The picture is (H, W, 3) uint8 sRGB. The values are stretched to the whole range; if nothing
        stands out, none is above one half. Raises WeightsError and BadOutput.
        """
        outputs = self._network.run(self._prepare(picture))
        found = outputs.get(self._output, next(iter(outputs.values())))
        if found.ndim < 2 or found.size != found.shape[-1] * found.shape[-2]:
            raise WeightsError(
                f"{self._network.name}: {_describe_wrong_shape(self._output, found.shape)}"
            )
        values = found.reshape(found.shape[-2:])
        if values.min() < 0 or values.max() > 1:  # logits
            values = 1 / (1 + np.exp(-values.clip(-60, 60)))
        lowest, highest = float(values.min()), float(values.max())
        if highest < _LEAST or highest == lowest:
            return np.asarray(values.clip(0, 0.5), np.float32)
        return np.asarray((values - lowest) / (highest - lowest), np.float32)

    def mask(self, picture: np.ndarray, label: str | None = None) -> np.ndarray:
        """Return the product's mask, (H, W) uint8, 255 inside it.

        Raises BadMask if a label is given, because such a network knows none.
        """
        if label is not None:
            raise BadMask(f"the segmentation model knows no labels; given {label!r}")
        return np.where(matting.outline(picture, self.map(picture)), 255, 0).astype(np.uint8)


_u2net: dict[str, Saliency] = {}
_u2net_lock = threading.Lock()


def u2net(sha256: str | None) -> Saliency:
    """Return the network that comes with this package, loaded once in a process.

    `sha256` is the hash of the file that a plan was made with. Raises WeightsError if this package
    has another file.
    """
    here = shipped_sha256(U2NET)
    if sha256 != here:
        raise WeightsError(f"{U2NET}: the plan was made with {sha256}; this package has {here}")
    with _u2net_lock:
        if here not in _u2net:
            _u2net[here] = Saliency.load((SHIPPED / U2NET).parent)
        return _u2net[here]


def _graph(data: bytes, path: Path) -> Graph:
    try:
        return read_graph(data)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _first_output(graph: Graph, path: Path) -> str:
    if not graph.outputs:
        raise WeightsError(f"{path}: the network has no output")
    name, shape = next(iter(graph.outputs.items()))
    lengths = shape[:-2]
    if shape and (len(shape) < 2 or any(each not in (None, 1) for each in lengths)):
        raise WeightsError(f"{path}: {_describe_wrong_shape(name, shape)}")
    return name


def _describe_wrong_shape(name: str, shape: tuple[int | None, ...]) -> str:
    given = "×".join("?" if each is None else str(each) for each in shape)
    return f"output {name}: accepted: one map of what stands out, 1×1×h×w; given {given}"


def _preparation(size: tuple[int, int], config: dict[str, Any], where: Path) -> _Preparation:
    if not config:
        return _Preparation(size)
    mean = _three_numbers(config, "image_mean", (0.485, 0.456, 0.406), where)
    deviation = _three_numbers(config, "image_std", (0.229, 0.224, 0.225), where)
    if 0 in deviation:
        raise WeightsError(f"{where}: image_std: accepted: no zero")
    scale = config.get("rescale_factor", 1 / 255)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise WeightsError(f"{where}: rescale_factor: accepted: a number above 0, at most 1")
    for name in ("do_center_crop", "do_pad"):  # the map would show another part of the picture
        if config.get(name):
            raise WeightsError(f"{where}: {name}: accepted: false")
    return _Preparation(size, mean, deviation, scale)


def _input_size(graph: Graph, config: dict[str, Any], path: Path) -> tuple[int, int]:
    """Return (width, height) as the graph states it, or its config if the graph takes any size."""
    shapes = list(graph.inputs.values())
    given = ", ".join("×".join("?" if n is None else str(n) for n in each) for each in shapes)
    accepted = f"{path}: input: accepted: one picture, 1×3×h×w; given {given or 'none'}"
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise WeightsError(accepted)
    batch, channels, height, width = shapes[0]
    if batch not in (None, 1) or channels not in (None, 3):
        raise WeightsError(accepted)
    size = config.get("size")
    size = size if isinstance(size, dict) else {}
    height, width = height or size.get("height"), width or size.get("width")
    if not (isinstance(height, int) and isinstance(width, int)):
        raise WeightsError(f"{accepted}, and {_CONFIG} says no size (height, width)")
    if min(width, height) < 16 or width * height > _MOST_PX:
        raise WeightsError(
            f"{path}: input: accepted: 16 px a side or more, and {_MOST_PX:,} pixels or fewer; "
            f"given {width}×{height}"
        )
    return width, height


def _three_numbers(
    config: dict[str, Any], name: str, otherwise: tuple[float, ...], where: Path
) -> tuple[float, ...]:
    given = config.get(name, otherwise)
    numbers = isinstance(given, list | tuple) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in given
    )
    if not numbers or len(given) != 3:
        raise WeightsError(f"{where}: {name}: accepted: three numbers")
    return tuple(float(each) for each in given)
