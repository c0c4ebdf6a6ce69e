"""Packing, positions and noise levels. If these break, pictures come out as noise, or off by one
patch, at every step."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ace_tasks.model import sampling


@pytest.mark.parametrize(("h", "w"), [(2, 2), (4, 6), (10, 14), (36, 20)])
def test_unpack_is_the_inverse_of_pack(h: int, w: int) -> None:
    x = torch.arange(3 * 16 * h * w, dtype=torch.float32).reshape(3, 16, h, w)
    packed = sampling.pack(x)
    assert packed.shape == (3, h * w // 4, 64)
    assert torch.equal(sampling.unpack(packed, h, w), x)


def test_a_token_is_a_patch_and_its_features_run_channel_row_column() -> None:
    x = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    packed = sampling.pack(x)
    for row, column in ((0, 0), (0, 2), (1, 1)):
        token = packed[0, row * 3 + column].tolist()
        patch = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert token == patch.flatten().tolist()


def test_mask_pixels_become_channels_row_by_row() -> None:
    mask = torch.arange(16 * 24).reshape(1, 1, 16, 24)
    latents = sampling.mask_latents(mask)
    assert latents.shape == (1, 64, 2, 3)
    for y, x in ((0, 0), (3, 5), (7, 7), (12, 19)):
        assert latents[0, y % 8 * 8 + x % 8, y // 8, x // 8] == mask[0, 0, y, x]


def test_positions_are_rows_and_columns_of_the_whole_canvas() -> None:
    ids = sampling.position_ids(4, 6)
    assert ids.tolist() == [[0, row, column] for row in range(2) for column in range(3)]


def test_noise_levels_fall_from_1_to_0_as_diffusers_has_them() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    for steps, tokens in product((1, 4, 28), (12, 256, 1024, 4096, 6000)):
        levels = sampling.sigmas(steps, tokens)
        assert (levels.shape, levels.dtype) == ((steps + 1,), torch.float32)
        assert levels[-1] == 0
        assert abs(levels[0].item() - 1) <= 2**-24  # the last bit is the reference's
        assert (levels.diff() < 0).all()
        scheduler.set_timesteps(
            sigmas=np.linspace(1, 1 / steps, steps), mu=sampling.shift_mu(tokens), device="cpu"
        )
        assert (scheduler.sigmas - levels).abs().max() <= 1.2e-7, (steps, tokens)


def test_more_tokens_stay_longer_at_high_noise() -> None:
    """Published anchors: 0.5 at 256 tokens, 1.15 at 4096; beyond them the line goes on."""
    assert sampling.shift_mu(256) == 0.5
    assert sampling.shift_mu(4096) == pytest.approx(1.15)
    assert sampling.shift_mu(8192) > 1.8
    assert (sampling.sigmas(8, 4096)[1:-1] > sampling.sigmas(8, 256)[1:-1]).all()


def test_euler_steps_along_the_true_velocity_end_at_the_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1, 16, 4, 4, generator=generator)
    levels = sampling.sigmas(7, 4).tolist()
    x = eps
    for sigma, next_sigma in pairwise(levels):
        x = sampling.euler_step(x, eps - x0, sigma, next_sigma)
        assert torch.allclose(x, (1 - next_sigma) * x0 + next_sigma * eps, atol=1e-5)
    assert torch.allclose(x, x0, atol=1e-5)
