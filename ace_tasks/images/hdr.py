"""HDR pictures (PQ and HLG) shown in sRGB, which ends at white.

ITU-R BT.2100: transfer functions. BT.2408: 203 cd/m² is the white of SDR, which is a level of 0.58
in PQ and 0.75 in HLG. Light above it is cut.
"""

from __future__ import annotations

import functools

import numpy as np

from ace_tasks.images.icc import SRGB_PRIMARIES, Primaries, rgb_to_xyz

PQ, HLG = 16, 18  # transfer characteristics of H.273
NAMES = {PQ: "PQ", HLG: "HLG"}
_WHITE_CD_M2 = 203.0
_HLG_PEAK_CD_M2, _HLG_GAMMA = 1000.0, 1.2
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])
_STRIP_PX = 128
_SRGB_STEPS = 1 << 14  # of linear light, in which sRGB's levels are looked up


def to_srgb(rgb: np.ndarray, transfer: int, primaries: Primaries) -> np.ndarray:
    """(H, W, 3) uint8 in PQ or HLG → sRGB. Raises ValueError for primaries that span nothing."""
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
    """(256,): light of each level; of PQ as a share of SDR's white, of HLG that of the scene."""
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
    """Linear light in steps → sRGB, uint8."""
    linear = np.arange(_SRGB_STEPS) / (_SRGB_STEPS - 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)
