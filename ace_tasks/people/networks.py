"""MediaPipe's networks for people, run by OpenCV on the CPU.

Their files ship with this project (`model/shipped/people`). A picture is (h, w, 3) uint8 sRGB; the
same picture gets the same numbers, on one thread or several.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

import ace_tasks.model
from ace_tasks.errors import WeightsError
from ace_tasks.model.places import Folder, hash_folder, unlisted

FOLDER = Path(ace_tasks.model.__file__).parent / "shipped" / "people"
SELFIE, POSE, FACE = (
    "selfie_segmentation.tflite",
    "pose_landmark_full.tflite",
    "face_detection_short_range.tflite",
)
SIZES_PX = {SELFIE: 256, POSE: 256, FACE: 128}  # each takes a square
_OUTPUTS = {
    SELFIE: ("activation_10",),
    POSE: ("Identity", "Identity_1", "Identity_2"),  # landmarks, is there a person, their mask
    FACE: ("regressors", "classificators"),
}


def fingerprints() -> dict[str, str]:
    """Network → SHA-256 (hex), as listed; the texts beside them decide no pixel. Raises
    WeightsError.
    """
    listed = Folder(FOLDER).manifest()
    return {name: listed[name] for name in SIZES_PX if name in listed}


class Network:
    """One network. Thread-safe: it works on one picture at a time."""

    def __init__(self, path: Path):
        try:
            # OpenCV's new engine gives the last output of such a file only.
            self._net = cv2.dnn.readNetFromTFLite(str(path), cv2.dnn.ENGINE_CLASSIC)
        except cv2.error as error:
            told = " ".join(str(error).split())[:300]
            raise WeightsError(f"{path}: OpenCV cannot load it: {told}") from None
        self._outputs = _OUTPUTS[path.name]
        self._side_px = SIZES_PX[path.name]
        self._lock = threading.Lock()

    def __call__(self, picture: np.ndarray, lowest: float = 0.0) -> list[np.ndarray]:
        """Its outputs, in the order of _OUTPUTS, for a square picture whose levels become `lowest`
        to 1.
        """
        assert picture.shape == (self._side_px, self._side_px, 3)
        scaled = picture.astype(np.float32) * ((1 - lowest) / 255) + lowest
        blob = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
        with self._lock:
            self._net.setInput(blob)
            return [np.array(each) for each in self._net.forward(self._outputs)]


@functools.cache
def load() -> Mapping[str, Network]:
    """File → network, once in a process. Raises WeightsError unless every file is as listed."""
    if problem := unlisted(Folder(FOLDER).manifest(), hash_folder(FOLDER)):
        raise WeightsError(f"{FOLDER}/{problem}")
    return {name: Network(FOLDER / name) for name in SIZES_PX}
