"""What a step descends: flow matching over [ reference | target ], as the paper weighs it.

    L = w_ref · L_ref + w_tar · L_tar        (paper: context-aware loss; omega = 1)

each a mean over its own tokens, so a large reference does not drown a small target. Upstream's
code has one mean over all instead (ACE_SPEC 8): form "area".

Legend: B batch, C channels, H W latent height and width, N image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ace_tasks.errors import SettingsError
from ace_tasks.model import sampling
from ace_tasks.training.latents import Latents
from ace_tasks.training.sample import GUIDANCE, noisy
from ace_tasks.training.texts import Texts


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
        self,
        shapes: Sequence[Latents],
        settings: ObjectiveSettings,
        steps: int,
        rank: int = 0,
        workers: int = 1,
        texts: Texts | None = None,
    ):
        """`texts`: what encoders that do not learn said of the prompts."""
        settings.share(workers)
        self.shapes = shapes
        self.settings = settings
        self.stage_2_from = settings.stage_1_share * steps
        self.rank, self.workers, self.texts = rank, workers, texts
        self._first_stage = [np.flatnonzero(each.stage_1_B) for each in shapes]
        self._all = [np.arange(len(each)) for each in shapes]
        if not shapes:
            raise SettingsError("data: no example to learn from")
        if self.stage_2_from and not any(map(len, self._first_stage)):
            raise SettingsError(
                "data: no example of a task without references for the first stage; with none, "
                "objective.stage_1_share is 0"
            )

    def take(self, step: int) -> tuple[Latents, Tensor, Tensor]:
        """This worker's share: latents, noise (B, 16, H, W), sigma (B,).

        Of a shape with fewer examples than a batch, some are in it twice, at other noise levels.
        """
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
        batch = self.shapes[shape].take(index[mine])
        return self.texts.fill(batch) if self.texts else batch, noise[mine], sigma[mine]


def loss(
    model: Any,
    batch: Latents,
    noise: Tensor,
    sigma: Tensor,
    settings: ObjectiveSettings,
    device: str = "cpu",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its two halves. `model`: a `Trained`, or one in DDP.

    On the device "meta" all of it is done but the numbers: what fits, and what learns.
    """
    x0, edit, change, mask = (
        torch.as_tensor(each).to(device, torch.float32)
        for each in (batch.target_BCHW, batch.edit_BCHW, batch.change_BCHW, batch.mask_BCHW)
    )
    noise, sigma = noise.to(device), sigma.to(device)
    x_t = noisy(x0, noise, sigma[:, None, None, None])
    packed = torch.cat([sampling.pack(each) for each in (x_t, edit, change, mask)], dim=-1)
    height, width = x0.shape[2:]
    with _half_precision(x0.device.type), _attention(x0.device.type):
        v = model(
            packed,
            sigma,
            torch.full_like(sigma, GUIDANCE),
            *(_text(each).to(device) for each in (batch.t5_BT, batch.clip_BT)),
            sampling.position_ids(height, width).to(device),
        )
    error = (v.float() - sampling.pack(noise - x0)).square().mean(dim=-1)
    mask_BN = sampling.pack(mask).mean(dim=-1)
    return weigh(error, mask_BN, width, batch.reference_w, settings, _mean_over_workers)


def _text(ids_or_hidden: np.ndarray) -> Tensor:
    text = torch.as_tensor(ids_or_hidden)
    return text.float() if text.is_floating_point() else text.long()


def _half_precision(device: str) -> AbstractContextManager[Any]:
    return nullcontext() if device == "meta" else torch.autocast(device, torch.bfloat16)


def _attention(device: str) -> AbstractContextManager[Any]:
    """On a CPU the default kernel's backward pass takes four times as long in bfloat16."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def recompute(block: Any, *args: Any) -> Any:
    """A block of the transformer whose inner values are computed anew for the backward pass, which
    happens outside of `loss`: under the kernel that it was.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _attention(args[0].device.type)

    return checkpoint(block.__call__, *args, use_reentrant=False, context_fn=contexts)


def _mean_over_workers(value: Tensor) -> Tensor:
    if not torch.distributed.is_initialized():
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def weigh(
    error_BN: Tensor,
    mask_BN: Tensor,
    width: int,
    reference_w: int,
    settings: ObjectiveSettings,
    mean: Callable[[Tensor], Tensor] = lambda value: value,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Token errors → the loss. Widths in latents; the reference stands left.

    `mean`: of a number over all workers. With their denominators alike, the mean of their losses
    is the loss of the whole batch.
    """
    # Found on the CPU: a GPU would be waited for.
    of_target = torch.arange(error_BN.shape[1]) % (width // 2) >= reference_w // 2
    inside, outside = (each.nonzero()[:, 0].to(error_BN.device) for each in (of_target, ~of_target))
    weights = 1 + (settings.mask_weight - 1) * mask_BN[:, inside]
    target = (error_BN[:, inside] * weights).sum() / mean(weights.sum())
    reference = error_BN[:, outside].mean() if reference_w else error_BN.new_zeros(())
    numbers = {"target": target.detach()}
    if reference_w:
        numbers["reference"] = reference.detach()
    if settings.form == "area":
        return error_BN.mean(), numbers
    return settings.target_weight * target + settings.reference_weight * reference, numbers
