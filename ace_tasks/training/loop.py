"""The optimisation loop of all trainings here.

It has AdamW, warm-up and cosine, clipping, an average of the weights, checkpoints and resume.

The loss of a step is a function of its number alone (`loss(step)`), so an interrupted training
continues exactly as it would have without the interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ace_tasks.specs import Frozen

# Takes a step's number; returns the loss to descend, and numbers to log.
Loss = Callable[[int], tuple[Tensor, Mapping[str, float | Tensor]]]
OnLog = Callable[[int, dict[str, float]], None]
# Returns the first worker's value to all workers.
Share = Callable[[dict[str, Any] | None], dict[str, Any] | None]


class LoopSettings(Frozen):
    """The settings of the loop. Defaults are from the paper's code if it has any (ACE_SPEC 8)."""

    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup_steps: int = 150
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    # Low enough that the average of a short training is not dominated by its start.
    ema_decay: float = Field(0.998, ge=0, lt=1)
    checkpoint_every_s: float = 300
    log_every_steps: int = 50

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then cosine to zero."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def saved_step(checkpoint: Path) -> int:
    """Return the step of a checkpoint, or 0 if there is none."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["step"])


class Loop:
    """A training of `model`. `averaged` holds the running average, which is the result.

    Only the process with `main` writes checkpoints and logs.
    """

    def __init__(
        self, model: nn.Module, settings: LoopSettings, checkpoint: Path, *, main: bool = True
    ):
        self.model = model
        self.settings = settings
        self.checkpoint = checkpoint
        self.main = main
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            [value for value in model.parameters() if value.requires_grad],
            lr=settings.lr,
            betas=(0.9, 0.999),
            eps=1e-6,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        average = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(model, multi_avg_fn=average)

    def resume(self, share: Share = lambda state: state) -> bool:
        """Continue from the checkpoint, if there is one, and return whether there was.

        Only the first of several workers reads it. `share` gives its state to the others, so that
        all are at the same step.
        """
        state = None
        if self.main and self.checkpoint.exists():
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        state = share(state)
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return True

    def save(self) -> None:
        """Write the checkpoint in one step. An interruption leaves the previous one."""
        coming = self.checkpoint.with_name(f"{self.checkpoint.name}.coming")
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self._state(), coming)
        coming.rename(self.checkpoint)

    def run(self, loss: Loss, on_log: OnLog, until: Callable[[], bool] = lambda: False) -> None:
        """Train until the last step, or until `until` returns True, and save at the end."""
        settings = self.settings
        saved_at = time.monotonic()
        self.model.train()
        while self.step < settings.steps and not until():
            numbers = self._descend(loss)
            if self.main and self.step % settings.log_every_steps == 0:
                on_log(self.step, numbers)
            if self.main and time.monotonic() - saved_at > settings.checkpoint_every_s:
                self.save()
                saved_at = time.monotonic()
        if self.main:
            self.save()

    def _descend(self, loss: Loss) -> dict[str, float]:
        lr = self.settings.lr_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        value, numbers = loss(self.step)
        value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        metrics = {name: float(number) for name, number in numbers.items()}
        return {**metrics, "loss": value.item(), "lr": lr, "grad_norm": norm.item()}

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
