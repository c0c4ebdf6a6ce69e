"""HDR pictures (PQ and HLG) converted to sRGB, which ends at white.

Transfer functions are those of ITU-R BT.2100. By BT.2408 the white of SDR is 203 cd/m², a level of
0.58 in PQ and of 0.75 in HLG. Light above it is clipped.
"""

from __future__ import annotations

import functools

import numpy as np

from ace_tasks.images.icc import SRGB_PRIMARIES, Primaries, rgb_to_xyz

PQ, HLG = 16, 18  # codes of transfer characteristics in H.273
NAMES = {PQ: "PQ", HLG: "HLG"}
_WHITE_CD_M2 = 203.0
_HLG_PEAK_CD_M2, _HLG_GAMMA = 1000.0, 1.2
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])
_STRIP_PX = 128
_SRGB_STEPS = 1 << 14  # entries of the table from linear light to sRGB levels


def to_srgb(rgb: np.ndarray, transfer: int, primaries: Primaries) -> np.ndarray:
    """Convert (H, W, 3) uint8 from PQ or HLG to sRGB.

    Raises ValueError for primaries that span no colour space.
    """
    to_linear_srgb = np.linalg.solve(rgb_to_xyz(SRGB_PRIMARIES), rgb_to_xyz(primaries))
    light_of_level = _light(transfer)
    shown = np.empty(rgb.shape, np.uint8)
    for top in range(0, len(rgb), _STRIP_PX):
        rows = slice(top, top + _STRIP_PX)
        light = light_of_level[rgb[rows]]
        if transfer == HLG:  # from the scene's light to the screen's
            luma = light @ _BT2020_LUMA
            light = light * (np.maximum(luma, 1e-9) ** (_HLG_GAMMA - 1))[..., None]
            light *= _HLG_PEAK_CD_M2 / _WHITE_CD_M2
        linear = np.clip(light @ to_linear_srgb.T, 0, 1)
        shown[rows] = _srgb_levels()[np.round(linear * (_SRGB_STEPS - 1)).astype(np.int32)]
    return shown


def _light(transfer: int) -> np.ndarray:
    """Return the light of each of the 256 levels, (256,).

    PQ's is a share of SDR white, HLG's is the light of the scene.
    """
    level = np.arange(256) / 255
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = level ** (1 / m2)
        light = 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
        return np.asarray(light / _WHITE_CD_M2)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12)


@functools.cache
def _srgb_levels() -> np.ndarray:
    """Return the sRGB level, uint8, of each of `_SRGB_STEPS` steps of linear light."""
    linear = np.arange(_SRGB_STEPS) / (_SRGB_STEPS - 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)
