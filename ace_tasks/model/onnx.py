"""Inputs and outputs of an ONNX file, read from its protocol buffer.

OpenCV reports neither the shapes of a graph's inputs nor which of its results are its outputs.
Field numbers are those of onnx.proto (github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_MOST_NESTED = 16  # graphs within graphs, as `If` and `Loop` have them

# Kind of message → field number → kind of the message in it. Other fields are skipped.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_INPUT, _OUTPUT, _INITIALIZER = 11, 12, 5
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass
class Graph:
    """The shapes of a graph's inputs and outputs by name. None is a length that is not fixed."""

    inputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[int | None, ...]] = field(default_factory=dict)


def read_graph(data: bytes) -> Graph:
    """Read the inputs and outputs of an ONNX model.

    Raises ValueError if `data` is not one, or if it keeps numbers in other files.
    """
    graph = Graph()
    whole = memoryview(data)
    _refuse_external(whole, "model", 0)
    graphs = [value for number, value in _fields(whole) if number == 7]
    if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
        raise ValueError("not an ONNX model")
    constants = set()
    for number, value in _fields(graphs[0]):
        if not isinstance(value, memoryview):
            continue
        if number == _INITIALIZER:
            constants.add(_text(value, 8))
        elif number in (_INPUT, _OUTPUT):
            name, shape = _text(value, 1), _shape(value)
            (graph.inputs if number == _INPUT else graph.outputs)[name] = shape
    for name in constants:  # older graphs list their weights as inputs
        graph.inputs.pop(name, None)
    return graph


def _refuse_external(message: memoryview, kind: str, nested: int) -> None:
    """Raise ValueError for a tensor that is stored in a file of its own.

    No list of hashes names such a file, and its path may lead anywhere.
    """
    if nested > _MOST_NESTED:
        raise ValueError("graphs are nested too deep")
    parts = _PARTS.get(kind, {})
    for number, value in _fields(message):
        if kind == "tensor" and number == 14 and value == _EXTERNAL:
            raise ValueError("it keeps numbers in other files; accepted: all in one file")
        if number in parts and isinstance(value, memoryview):
            inner = parts[number]
            _refuse_external(value, inner, nested + (inner == "graph"))


def _shape(value: memoryview) -> tuple[int | None, ...]:
    """Return the shape in a ValueInfoProto: type (2), tensor (1), shape (2), dimensions (1)."""
    messages = [value]
    for number in (2, 1, 2, 1):
        messages = [
            inner
            for each in messages
            for found, inner in _fields(each)
            if found == number and isinstance(inner, memoryview)
        ]
    return tuple(_length(each) for each in messages)


def _length(dimension: memoryview) -> int | None:
    lengths = [value for number, value in _fields(dimension) if number == 1]
    return lengths[0] if lengths and isinstance(lengths[0], int) and lengths[0] > 0 else None


def _text(message: memoryview, number: int) -> str:
    for found, value in _fields(message):
        if found == number and isinstance(value, memoryview):
            return bytes(value).decode(errors="replace")
    return ""


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (number, value) of each field. A value is an integer, or the bytes of the content.

    Raises ValueError if the message is not a protocol buffer.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("not an ONNX model")
        if length > len(message) - at:
            raise ValueError("the file ends too early")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return an integer stored as 7 bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("the file ends too early")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("not an ONNX model")
