"""MediaPipe's networks for people, which come with this package. No torch is loaded.

A picture is a square (h, w, 3) uint8 in sRGB, of the size that the network takes.
"""

from __future__ import annotations

import functools
import hashlib
import threading

import numpy as np

from ace_tasks.model.dnn import Network, shipped_sha256
from ace_tasks.specs import canonical_json

SELFIE_PX, POSE_PX, FACE_PX = 256, 256, 128
_SELFIE = "people/selfie_segmentation.tflite"
_POSE = "people/pose_landmark_full.tflite"
_FACE = "people/face_detection_short_range.tflite"


def fingerprint() -> str:
    """Return the SHA-256 (hex) over the listed hashes of all three. Raises WeightsError."""
    hashes = {name: shipped_sha256(name) for name in (_SELFIE, _POSE, _FACE)}
    return hashlib.sha256(canonical_json(hashes)).hexdigest()


class Networks:
    """The three networks, loaded. Thread-safe."""

    def __init__(self) -> None:
        """Load the networks. Raises WeightsError."""
        self._selfie, self._pose, self._face = map(Network.shipped, (_SELFIE, _POSE, _FACE))

    def outline(self, picture: np.ndarray) -> np.ndarray:
        """Return how likely each pixel belongs to a person, (h, w) float32 in [0, 1]."""
        return self._selfie.run(_blob(picture))["activation_10"].reshape(SELFIE_PX, SELFIE_PX)

    def pose(self, picture: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """Return landmarks, confidence and outline of one person, whom the picture shows whole.

        Landmarks are (39, 5) float32: x, y, z in pixels, visibility and presence as logits. The
        confidence is in [0, 1]. The outline is (h, w) float32, as logits.
        """
        found = self._pose.run(_blob(picture))
        score = float(found["Identity_1"].item())
        outline = found["Identity_2"].reshape(POSE_PX, POSE_PX)
        return found["Identity"].reshape(39, 5), score, outline

    def faces(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a possible face for each of 896 anchors.

        The first array, (896, 16) float32, holds a box and six points in pixels from the anchor.
        The second, (896,) float32, holds the logit that a face is there.
        """
        found = self._face.run(2 * _blob(picture) - 1)
        return found["regressors"].reshape(896, 16), found["classificators"].ravel()


_loading = threading.Lock()


def load() -> Networks:
    """Return the networks of this process, loaded once by whoever asks first.

    Raises WeightsError.
    """
    with _loading:
        return _loaded()


@functools.cache
def _loaded() -> Networks:
    return Networks()


def _blob(picture: np.ndarray) -> np.ndarray:
    """Return a picture as (1, 3, h, w) float32 in [0, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255
