"""ONNX files of a few hundred bytes, written field by field (onnx.proto): a weighted sum of the
three colours, with or without a sigmoid behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from ace_tasks.model import places

_FLOAT, _EXTERNAL = 1, 1


def number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def message(field: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def tensor(name: str, shape: Sequence[int], values: Sequence[float], external: str = "") -> bytes:
    """Return a tensor. `external` names the file that holds its numbers in place of this one."""
    dims = b"".join(number(1, each) for each in shape)
    where = message(9, struct.pack(f"<{len(values)}f", *values))
    if external:
        where = message(13, message(1, "location") + message(2, external)) + number(14, _EXTERNAL)
    return dims + number(2, _FLOAT) + message(8, name) + where


def value(name: str, shape: Sequence[int | None]) -> bytes:
    dims = b"".join(message(1, number(1, each) if each else b"") for each in shape)
    return message(1, name) + message(2, message(1, number(1, _FLOAT) + message(2, dims)))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(message(1, each) for each in inputs) + message(2, output) + message(4, kind)


def model(
    input_shape: Sequence[int | None] = (1, 3, 32, 48),
    channels: int = 1,
    sigmoid: bool = True,
    weights: Sequence[float] = (4, -4, 0),
    external: str = "",
) -> bytes:
    """A 1 × 1 convolution from three colours to `channels`."""
    nodes = [_node("Conv", ["picture", "weights"], "sum" if sigmoid else "map")]
    if sigmoid:
        nodes.append(_node("Sigmoid", ["sum"], "map"))
    shape = [1, channels, *input_shape[2:]]
    graph = [
        *(message(1, each) for each in nodes),
        message(2, "tiny"),
        message(5, tensor("weights", [channels, 3, 1, 1], [*weights] * channels, external)),
        message(11, value("picture", input_shape)),
        message(11, value("weights", [channels, 3, 1, 1])),  # as older exporters write it
        message(12, value("map", shape)),
    ]
    return number(1, 7) + message(7, b"".join(graph)) + message(8, number(2, 13))


def make_segmenter(folder: Path, data: bytes | None = None) -> Path:
    """A pinned folder with one network; what is red stands out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.onnx").write_bytes(model() if data is None else data)
    places.pin(folder)
    return folder
