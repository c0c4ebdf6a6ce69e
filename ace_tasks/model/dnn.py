"""Small networks that OpenCV runs: ONNX and TFLite files, without torch.

A file is read once and checked against its hash, and OpenCV gets exactly those bytes. A network
runs on the CPU in float32. The same input gives the same output, to the bit, with one thread or
with many (`tests/model/test_dnn.py`).
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from ace_tasks.errors import BadOutput, WeightsError
from ace_tasks.model.places import Folder, read_file

# Networks that come with this package: one folder each, listed in its sha256.json.
SHIPPED = Path(__file__).with_name("shipped")
U2NET = "u2netp/u2netp.onnx"


def _read_tflite(data: np.ndarray) -> Any:
    """Read a TFLite network with OpenCV's older engine.

    The newer engine returns only the last of several outputs. OpenCV lets the engine be chosen only
    for a file on disk, so the checked bytes are written to one.
    """
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(data.tobytes())
        file.flush()
        return cv2.dnn.readNetFromTFLite(file.name, cv2.dnn.ENGINE_CLASSIC)


# The first networks that two threads read at once can end the process: OpenCV sets up its layers
# then, unguarded (5.0.0: four of 187 processes with three threads each).
_reading = threading.Lock()

_READERS: dict[str, Callable[[np.ndarray], Any]] = {
    ".onnx": cv2.dnn.readNetFromONNX,
    ".tflite": _read_tflite,
}


def shipped_sha256(name: str) -> str:
    """Return the SHA-256 (hex) of a file that comes with this package, as its folder lists it.

    `name` is a path such as `u2netp/u2netp.onnx`. Raises WeightsError.
    """
    folder, _, file = name.partition("/")
    hashes = Folder(SHIPPED / folder).manifest()
    if file not in hashes:
        raise WeightsError(f"{SHIPPED / folder}: no file {file} in its list")
    return hashes[file]


class Network:
    """One loaded network. Thread-safe: calls run one at a time."""

    def __init__(self, name: str, net: Any):
        self.name = name  # for messages
        self._net = net
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path, sha256: str, data: bytes | None = None) -> Self:
        """Load a network from a file.

        `data` is the file's content, if the caller has read it already. Raises WeightsError if the
        content does not have the hash `sha256`, and for a network that OpenCV cannot load.
        """
        if data is None:
            data = read_file(path)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise WeightsError(f"{path}: altered; expected SHA-256 {sha256}, found {found}")
        read = _READERS.get(path.suffix)
        if read is None:
            raise WeightsError(f"{path}: accepted: {', '.join(_READERS)}")
        try:
            with _reading:
                net = read(np.frombuffer(data, np.uint8))
        except cv2.error as error:
            raise WeightsError(f"{path}: OpenCV cannot load it: {_line(error)}") from None
        return cls(str(path), net)

    @classmethod
    def shipped(cls, name: str) -> Self:
        """Load a network that comes with this package. Raises WeightsError.

        `name` is a path such as `u2netp/u2netp.onnx`.
        """
        return cls.load(SHIPPED / name, shipped_sha256(name))

    def run(self, blob: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network and return every output by its name, as float32.

        `blob` is float32 in the shape of the network's only input, which OpenCV does not always
        check. Raises WeightsError if OpenCV cannot run the network, and BadOutput for NaN or
        infinite outputs.
        """
        with self._lock:
            try:
                self._net.setInput(np.ascontiguousarray(blob, np.float32))
                names = list(self._net.getUnconnectedOutLayersNames())
                # Copies, because OpenCV may reuse the memory of its outputs.
                found = [np.array(each, np.float32) for each in self._net.forward(names)]
            except cv2.error as error:
                raise WeightsError(f"{self.name}: OpenCV cannot run it: {_line(error)}") from None
        for name, values in zip(names, found, strict=True):
            if not np.isfinite(values).all():
                raise BadOutput(f"{self.name}: output {name} has NaN or infinite numbers")
        return dict(zip(names, found, strict=True))


def _line(error: Exception) -> str:
    """Return OpenCV's message on one line, short enough to read."""
    return " ".join(str(error).split())[:300]
