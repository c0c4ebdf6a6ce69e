"""What a step descends: flow matching over [ reference | target ], as the paper weighs it.

    L = w_ref · L_ref + w_tar · L_tar        (paper: context-aware loss; omega = 1)

each a mean over its own tokens, so a large reference does not drown a small target. Upstream's
code has one mean over all instead (ACE_SPEC 8): form "area".

Legend: B batch, C channels, H W latent height and width, N image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ace_tasks.errors import SettingsError
from ace_tasks.model import sampling
from ace_tasks.training.latents import Latents
from ace_tasks.training.sample import GUIDANCE


class ObjectiveSettings(BaseModel):
    """Weights of the loss, and the batch it is taken over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal["context", "area"] = "context"
    reference_weight: float = Field(1.0, ge=0)
    target_weight: float = Field(1.0, ge=0)
    mask_weight: float = Field(4.0, ge=1, description="Of masked target tokens against others.")
    batch: int = Field(24, ge=1, description="Over all workers.")
    stage_1_share: float = Field(
        0.5, ge=0, le=1, description="The first part of the steps sees tasks without references."
    )
    seed: int = 4

    def share(self, workers: int) -> int:
        """Examples of a step for each of several workers. Raises SettingsError unless the shares
        are equal, for only then is their mean that of the batch.
        """
        if self.batch % workers:
            raise SettingsError(
                f"workers: accepted: a divisor of the batch of {self.batch}; given {workers}"
            )
        return self.batch // workers


class Batches:
    """The batch of a step: a function of step and settings, shared out among workers."""

    def __init__(
        self, shapes: Sequence[Latents], settings: ObjectiveSettings, steps: int,
        rank: int = 0, workers: int = 1,
    ):  # fmt: skip
        settings.share(workers)
        self.shapes = shapes
        self.settings = settings
        self.stage_2_from = settings.stage_1_share * steps
        self.rank, self.workers = rank, workers
        self._first_stage = [np.flatnonzero(each.stage_1_B) for each in shapes]
        self._all = [np.arange(len(each)) for each in shapes]
        if self.stage_2_from and not any(map(len, self._first_stage)):
            raise SettingsError("data: no example of a task without references for the first stage")

    def take(self, step: int) -> tuple[Latents, Tensor, Tensor]:
        """This worker's share: latents, noise (B, 16, H, W), sigma (B,)."""
        rng = np.random.default_rng([self.settings.seed, step])
        rows = self._first_stage if step < self.stage_2_from else self._all
        counts = np.array([len(each) for each in rows], dtype=float)
        shape = int(rng.choice(len(rows), p=counts / counts.sum()))
        index = rng.choice(rows[shape], self.settings.batch)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        _, channels, height, width = self.shapes[shape].target_BCHW.shape
        noise = torch.randn(len(index), channels, height, width, generator=generator)
        sigma = torch.sigmoid(torch.randn(len(index), generator=generator))  # logit-normal(0, 1)
        mine = slice(self.rank, None, self.workers)
        return self.shapes[shape].take(index[mine]), noise[mine], sigma[mine]


def loss(
    model: Any, batch: Latents, noise: Tensor, sigma: Tensor, settings: ObjectiveSettings,
    device: str = "cpu",
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """The loss of a batch, and its two halves. `model`: a `Trained`, or one in DDP."""
    x0, edit, change, mask = (
        torch.as_tensor(each).to(device, torch.float32)
        for each in (batch.target_BCHW, batch.edit_BCHW, batch.change_BCHW, batch.mask_BCHW)
    )
    noise, sigma = noise.to(device), sigma.to(device)
    level = sigma[:, None, None, None]
    x_t = (1 - level) * x0 + level * noise
    packed = torch.cat([sampling.pack(each) for each in (x_t, edit, change, mask)], dim=-1)
    height, width = x0.shape[2:]
    with torch.autocast(x0.device.type, torch.bfloat16):
        v = model(
            packed,
            sigma,
            torch.full_like(sigma, GUIDANCE),
            *(torch.as_tensor(ids).to(device, torch.long) for ids in (batch.t5_BT, batch.clip_BT)),
            sampling.position_ids(height, width).to(device),
        )
    error = (v.float() - sampling.pack(noise - x0)).square().mean(dim=-1)
    mask_BN = sampling.pack(mask).mean(dim=-1)
    return weigh(error, mask_BN, width, batch.reference_w, settings, _mean_over_workers)


def _mean_over_workers(value: Tensor) -> Tensor:
    if not torch.distributed.is_initialized():
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def weigh(
    error_BN: Tensor, mask_BN: Tensor, width: int, reference_w: int, settings: ObjectiveSettings,
    mean: Callable[[Tensor], Tensor] = lambda value: value,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    """Token errors → the loss. Widths in latents; the reference stands left.

    `mean`: of a number over all workers. With their denominators alike, the mean of their losses
    is the loss of the whole batch.
    """
    columns = torch.arange(width // 2, device=error_BN.device).repeat(
        error_BN.shape[1] * 2 // width
    )
    of_target = columns >= reference_w // 2
    weights = 1 + (settings.mask_weight - 1) * mask_BN[:, of_target]
    target = (error_BN[:, of_target] * weights).sum() / mean(weights.sum())
    reference = error_BN[:, ~of_target].mean() if reference_w else error_BN.new_zeros(())
    numbers = {"target": target.item()}
    if reference_w:
        numbers["reference"] = reference.item()
    if settings.form == "area":
        return error_BN.mean(), numbers
    return settings.target_weight * target + settings.reference_weight * reference, numbers
