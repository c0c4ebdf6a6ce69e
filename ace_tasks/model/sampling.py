"""Pure functions for flow matching on packed latents (ACE_SPEC 3 and 4).

Legend: B batch, C latent channels, H W latent height and width, N = H/2·W/2 tokens, D features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

VAE_FACTOR = 8
_BASE_TOKENS, _MAX_TOKENS = 256, 4096
_BASE_SHIFT, _MAX_SHIFT = 0.5, 1.15


def shift_mu(tokens: int) -> float:
    """Return the schedule's shift towards high noise: linear in the tokens, not clamped."""
    slope = (_MAX_SHIFT - _BASE_SHIFT) / (_MAX_TOKENS - _BASE_TOKENS)
    return _BASE_SHIFT + (tokens - _BASE_TOKENS) * slope


def sigmas(steps: int, tokens: int) -> torch.Tensor:
    """Return the noise levels from 1 down to 0, (steps + 1,) float32."""
    u = torch.linspace(1, 0, steps + 1)
    shift = math.exp(shift_mu(tokens))
    return shift / (shift + (1 / u - 1))


def pack(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Pack (B, C, H, W) into (B, N, 4C): 2×2 patches, row-major; feature = c·4 + ph·2 + pw."""
    b, c, h, w = x_BCHW.shape
    patches = x_BCHW.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h // 2 * (w // 2), c * 4)


def unpack(x_BND: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Undo `pack` for latents of height h and width w."""
    b, _, d = x_BND.shape
    patches = x_BND.reshape(b, h // 2, w // 2, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, d // 4, h, w)


def mask_latents(mask_B1HW: torch.Tensor) -> torch.Tensor:
    """Fold a pixel mask (B, 1, 8H, 8W) into (B, 64, H, W); channel = ph·8 + pw."""
    return F.pixel_unshuffle(mask_B1HW, VAE_FACTOR)


def position_ids(h: int, w: int) -> torch.Tensor:
    """Return (0, row, column) of each token in the whole canvas's packed grid, (N, 3) float32."""
    rows, columns = torch.meshgrid(
        torch.arange(h // 2, dtype=torch.float32),
        torch.arange(w // 2, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


def euler_step(x: torch.Tensor, v: torch.Tensor, sigma: float, next_sigma: float) -> torch.Tensor:
    """Take one step along the velocity v = noise - x0."""
    return x + (next_sigma - sigma) * v
