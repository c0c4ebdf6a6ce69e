"""A finished picture fitted into the frame of a marketplace: centred and padded, never cropped.

Both the picture and the background are in sRGB.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ace_tasks.images import codec
from ace_tasks.images.paste import Window
from ace_tasks.specs import Preset


def place(size_px: tuple[int, int], preset: Preset) -> Window:
    """Return where in a preset's frame a picture of (width, height) lies.

    It is as large as the preset's margin allows.
    """
    width, height = size_px
    margin = round(preset.margin * min(preset.width_px, preset.height_px))
    room_w, room_h = preset.width_px - 2 * margin, preset.height_px - 2 * margin
    scale = min(room_w / width, room_h / height)
    fitted_w = min(room_w, max(1, round(width * scale)))
    fitted_h = min(room_h, max(1, round(height * scale)))
    left, top = (preset.width_px - fitted_w) // 2, (preset.height_px - fitted_h) // 2
    return Window(left, top, left + fitted_w, top + fitted_h)


def fit(rgb: np.ndarray, alpha: np.ndarray | None, preset: Preset) -> tuple[np.ndarray, Window]:
    """Fit (H, W, 3) uint8 in sRGB into the frame, and return that and the picture's place in it.

    The frame is opaque: transparent areas show the background. It is composited before scaling, so
    that no colour of a transparent pixel bleeds into an edge.
    """
    if alpha is not None:
        rgb = codec.flattened(rgb, alpha, preset.background)
    window = place((rgb.shape[1], rgb.shape[0]), preset)
    framed = np.empty((preset.height_px, preset.width_px, 3), np.uint8)
    framed[:] = preset.background
    scaled = Image.fromarray(rgb).resize(window.size, Image.Resampling.LANCZOS)
    window.cut(framed)[:] = np.asarray(scaled)
    return framed, window
