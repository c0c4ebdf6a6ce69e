"""The loss of a step: flow matching over [ reference | target ], weighted as in the paper.

    L = w_ref · L_ref + w_tar · L_tar        (paper: context-aware loss; omega = 1)

Each part is a mean over its own tokens, so that a large reference does not outweigh a small target.
Upstream's code has one mean over all tokens instead (ACE_SPEC 8), which is the form "area".

Legend: B batch, C channels, H W latent height and width, N image tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ace_tasks.errors import SettingsError
from ace_tasks.model import sampling
from ace_tasks.specs import Frozen
from ace_tasks.training.latents import Latents
from ace_tasks.training.sample import GUIDANCE, noisy
from ace_tasks.training.texts import Texts


class ObjectiveSettings(Frozen):
    """The weights of the loss, and the size of its batch."""

    form: Literal["context", "area"] = "context"
    reference_weight: float = Field(1.0, ge=0)
    target_weight: float = Field(1.0, ge=0)
    mask_weight: float = Field(
        4.0, ge=1, description="Weight of masked target tokens; others weigh 1."
    )
    batch: int = Field(24, ge=1, description="Examples of a step, over all workers.")
    stage_1_share: float = Field(
        0.5, ge=0, le=1, description="First share of the steps, with tasks without references only."
    )
    seed: int = 4

    def share(self, workers: int) -> int:
        """Return the examples of a step for each worker.

        Raises SettingsError unless the shares are equal, because only then the workers' mean is
        that of the batch.
        """
        if self.batch % workers:
            raise SettingsError(
                f"workers: accepted: a divisor of the batch of {self.batch}; given {workers}"
            )
        return self.batch // workers


class Batches:
    """The batches of all steps. A batch is a function of step and settings, split among workers."""

    def __init__(
        self,
        shapes: Sequence[Latents],
        settings: ObjectiveSettings,
        steps: int,
        rank: int = 0,
        workers: int = 1,
        texts: Texts | None = None,
    ):
        """Prepare the batches. `texts` are the stored outputs of frozen text encoders."""
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
                "data: no example of a task without references for the first stage; without such "
                "examples, set objective.stage_1_share to 0"
            )

    def take(self, step: int) -> tuple[Latents, Tensor, Tensor]:
        """Return the worker's share of a batch: latents, noise (B, 16, H, W) and sigma (B,).

        If a shape has fewer examples than a batch, some are in it twice, at other noise levels.
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
    """Return the loss of a batch, and its two parts. `model` is a `Trained`, or one in DDP.

    On the device "meta" everything but the arithmetic is done, which shows whether all shapes fit.
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
    """Return a context with the fastest attention kernel for training.

    On a CPU, the backward pass of the default kernel takes four times as long in bfloat16.
    """
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def recompute(block: Any, *args: Any) -> Any:
    """Run a transformer block whose activations are recomputed in the backward pass.

    The backward pass happens outside of `loss`, so the recomputation selects the same attention
    kernel again.
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
    """Return the loss of the token errors, and its parts.

    Widths are in latents, and the reference is on the left. `mean` gives the mean of a number over
    all workers. It makes their denominators equal, so that the mean of their losses is the loss of
    the whole batch.
    """
    # The indices are found on the CPU, because finding them on a GPU would block until it is done.
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
