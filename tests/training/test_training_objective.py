"""What a step descends. If these break, two workers learn another thing than one, or the reference
drowns the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ace_tasks.model import sampling
from ace_tasks.training.latents import Latents
from ace_tasks.training.objective import Batches, ObjectiveSettings, loss, weigh

SETTINGS = ObjectiveSettings(batch=12, stage_1_share=0.5)


def latents(width: int, count: int = 40, stage_1: float = 0.5) -> Latents:
    rng = np.random.default_rng(width)
    pictures = [rng.normal(size=(count, 16, 8, width)).astype(np.float16) for _ in range(3)]
    mask = rng.integers(0, 2, (count, 64, 8, width)).astype(np.uint8)
    ids = np.arange(count)[:, None].repeat(4, 1).astype(np.int16)
    return Latents(*pictures, mask, ids, ids, np.arange(count) < stage_1 * count)


SHAPES = [latents(8), latents(16, stage_1=0)]


def test_workers_share_the_batch_of_one() -> None:
    alone = Batches(SHAPES, SETTINGS, steps=100)
    several = [Batches(SHAPES, SETTINGS, 100, rank, 3) for rank in range(3)]
    for step in (0, 49, 50, 99):
        batch, noise, sigma = alone.take(step)
        parts = [each.take(step) for each in several]
        for rank, (part, part_noise, part_sigma) in enumerate(parts):
            assert np.array_equal(part.t5_BT, batch.t5_BT[rank::3])
            assert torch.equal(part_noise, noise[rank::3])
            assert torch.equal(part_sigma, sigma[rank::3])


def test_a_step_is_a_function_of_its_number() -> None:
    one, other = (Batches(SHAPES, SETTINGS, 100) for _ in range(2))
    other.take(7)
    assert np.array_equal(one.take(60)[0].target_BCHW, other.take(60)[0].target_BCHW)
    assert not torch.equal(one.take(60)[1][0], one.take(61)[1][0])


def test_the_first_stage_sees_no_references() -> None:
    batches = Batches(SHAPES, SETTINGS, steps=100)
    for step in range(50):
        batch, _, _ = batches.take(step)
        assert batch.reference_w == 0
        assert batch.stage_1_B.all()
    later = [batches.take(step)[0] for step in range(50, 100)]
    assert {each.reference_w for each in later} == {0, 8}
    assert not all(each.stage_1_B.all() for each in later if not each.reference_w)


def test_the_model_sees_the_noisy_target_and_answers_with_noise_less_target() -> None:
    """Sampling starts from pure noise at sigma 1 and follows noise - x0: another mixture, or
    another answer, would train a model that sampling cannot use.
    """
    batch, noise, sigma = Batches(SHAPES, SETTINGS, steps=100).take(0)
    x0 = torch.as_tensor(batch.target_BCHW).float()
    seen: list[torch.Tensor] = []

    def perfect(packed: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        seen.append(packed)
        return sampling.pack(noise - x0)

    least, _ = loss(perfect, batch, noise, sigma, SETTINGS)
    level = sigma[:, None, None, None]
    x_t = sampling.pack((1 - level) * x0 + level * noise)
    assert torch.equal(seen[0][..., : x_t.shape[-1]], x_t)
    assert least.item() == 0


def errors() -> tuple[torch.Tensor, torch.Tensor]:
    """A canvas of 8 × 16 latents, 4 × 8 tokens, its left half the reference."""
    error = torch.full((2, 4, 8), 3.0)
    error[:, :, :4] = 10.0  # the reference
    mask = torch.zeros(2, 4, 8)
    error[:, :2, 4:], mask[:, :2, 4:] = 5.0, 1.0
    return error.reshape(2, 32), mask.reshape(2, 32)


def test_reference_and_target_are_means_of_their_own() -> None:
    error, mask = errors()
    settings = ObjectiveSettings(mask_weight=1, reference_weight=0.5, target_weight=2)
    value, numbers = weigh(error, mask, 16, 8, settings)
    assert numbers == pytest.approx({"target": 4.0, "reference": 10.0})
    assert value.item() == pytest.approx(2 * 4.0 + 0.5 * 10.0)


def test_masked_tokens_weigh_more() -> None:
    error, mask = errors()
    _, numbers = weigh(error, mask, 16, 8, ObjectiveSettings(mask_weight=4))
    assert numbers["target"] == pytest.approx((4 * 5 + 3) / 5)


def test_upstreams_form_is_one_mean_over_all() -> None:
    error, mask = errors()
    value, _ = weigh(error, mask, 16, 8, ObjectiveSettings(form="area", mask_weight=4))
    assert value.item() == pytest.approx(7.0)


def test_without_a_reference_there_is_only_the_target() -> None:
    error, mask = torch.full((2, 16), 2.0), torch.ones(2, 16)
    value, numbers = weigh(error, mask, 8, 0, ObjectiveSettings())
    assert (value.item(), numbers) == (2.0, {"target": 2.0})
