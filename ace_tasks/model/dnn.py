"""Small networks that OpenCV runs: ONNX and TFLite files, without torch.

A file is read once and checked against its hash; OpenCV gets those very bytes. A network works on
the CPU in float32, and the same input gives the same output, to the bit, with one thread or with
many (`tests/model/test_dnn.py`).
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
    """With OpenCV's older engine: of several outputs the newer one gives the last alone. OpenCV
    listens to the choice for a file by name only, and may be given no other bytes than `data`.
    """
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(data.tobytes())
        file.flush()
        return cv2.dnn.readNetFromTFLite(file.name, cv2.dnn.ENGINE_CLASSIC)


_READERS: dict[str, Callable[[np.ndarray], Any]] = {
    ".onnx": cv2.dnn.readNetFromONNX,
    ".tflite": _read_tflite,
}


def shipped_sha256(name: str) -> str:
    """SHA-256 (hex) of a file that comes with this package, such as `u2netp/u2netp.onnx`, as its
    folder's list states it. Raises WeightsError.
    """
    folder, _, file = name.partition("/")
    hashes = Folder(SHIPPED / folder).manifest()
    if file not in hashes:
        raise WeightsError(f"{SHIPPED / folder}: no file {file} in its list")
    return hashes[file]


class Network:
    """One loaded network. Thread-safe: it runs once at a time."""

    def __init__(self, name: str, net: Any):
        self.name = name  # for messages
        self._net = net
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path, sha256: str, data: bytes | None = None) -> Self:
        """`data`: the file's content, where the caller has read it. Raises WeightsError for other
        bytes than `sha256` states, and for a network that OpenCV does not run.
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
            net = read(np.frombuffer(data, np.uint8))
        except cv2.error as error:
            raise WeightsError(f"{path}: OpenCV cannot load it: {_line(error)}") from None
        return cls(str(path), net)

    @classmethod
    def shipped(cls, name: str) -> Self:
        """A network that comes with this package, such as `u2netp/u2netp.onnx`. Raises
        WeightsError.
        """
        return cls.load(SHIPPED / name, shipped_sha256(name))

    def run(self, blob: np.ndarray) -> dict[str, np.ndarray]:
        """Output name → float32 array, of every output.

        `blob`: float32, shaped as the network's only input, which OpenCV does not always check.
        Raises WeightsError where OpenCV cannot run it, and BadOutput for numbers that are none.
        """
        with self._lock:
            try:
                self._net.setInput(np.ascontiguousarray(blob, np.float32))
                names = list(self._net.getUnconnectedOutLayersNames())
                # Copies: OpenCV may reuse the memory of its answers.
                found = [np.array(each, np.float32) for each in self._net.forward(names)]
            except cv2.error as error:
                raise WeightsError(f"{self.name}: OpenCV cannot run it: {_line(error)}") from None
        for name, values in zip(names, found, strict=True):
            if not np.isfinite(values).all():
                raise BadOutput(f"{self.name}: output {name} holds numbers that are none")
        return dict(zip(names, found, strict=True))


def _line(error: Exception) -> str:
    """OpenCV's message on one line, short enough to read."""
    return " ".join(str(error).split())[:300]
