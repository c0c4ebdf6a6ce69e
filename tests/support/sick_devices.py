"""Replicas on devices that are too small, or sick. All is real but the device: the errors are
torch's own, raised in the middle of the denoise loop, where the real ones come from.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.fit import MemoryMode
from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import WorkItem
from tests.support.patience import limit_s, wait_until

NEEDS = {"resident": 1.0, "text_offload": 0.7, "blocks": 0.55, "offload": 0.4}
NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB.\n"
    "If reserved but unallocated memory is large try setting …"
)
STICKY = "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa )`"


@contextmanager
def failing_in_its_second_step(model: AceModel, error: Exception | None) -> Iterator[None]:
    steps = 0

    def fail(*_: object) -> None:
        nonlocal steps
        steps += 1
        if error is not None and steps == 2:
            raise error

    hook = model.parts.transformer.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


class SmallDevice(Replica):
    """Holds `capacity` image tokens of a batch, more where less of the model is kept there.

    `passes`: (jobs together, tokens of each, mode, whether it went well).
    """

    def __init__(self, settings: ReplicaSettings, capacity: float):
        super().__init__(settings, "run-1", "replica-0")
        self.capacity = capacity
        self.passes: list[tuple[int, int, MemoryMode, bool]] = []
        self.at_work, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.start()

    def _load_model(self) -> AceModel:
        model = super()._load_model()
        generate = model.generate

        def limited(
            jobs: Sequence[ModelJob], between_steps: Any, memory: MemoryMode
        ) -> list[np.ndarray]:
            self.at_work.set()
            assert self.go.wait(limit_s())
            height, width = jobs[0].lcu.mask_1HW.shape[1:]
            tokens = height // 16 * (width // 16)
            fits = len(jobs) * tokens * NEEDS[memory] <= self.capacity
            self.passes.append((len(jobs), tokens, memory, fits))
            error = None if fits else torch.OutOfMemoryError(NO_MEMORY)
            with failing_in_its_second_step(model, error):
                return generate(jobs, between_steps, memory)

        model.generate = limited  # type: ignore[method-assign]
        return model

    def run_together(self, first: WorkItem, items: Sequence[WorkItem]) -> list[Outcome]:
        """`first` holds the device until all others queue; what became of the others."""
        self.at_work.clear()
        self.go.clear()
        outcomes: dict[str, Outcome] = {}

        def run(item: WorkItem) -> None:
            outcomes[item.item_id] = self.run(item, 0)

        threads = [threading.Thread(target=run, args=(each,)) for each in (first, *items)]
        threads[0].start()
        assert self.at_work.wait(limit_s())
        for number, thread in enumerate(threads[1:], start=1):
            thread.start()
            wait_until(
                lambda n=number: len(self._gpu._queue) >= n, "an item to queue", every_s=0.005
            )  # type: ignore[misc]
        self.go.set()
        for thread in threads:
            thread.join()
        return [outcomes[each.item_id] for each in items]

    def _waiting(self, items: int) -> bool:
        return len(self._gpu._queue) >= items


class SickDevice(Replica):
    """A library of CUDA's fails at an item with `trigger` in its prompt: once, if `once` is a path
    that is not there yet, else always.
    """

    def __init__(self, trigger: str, once: Path | None, *arguments: Any):
        super().__init__(*arguments)
        self._trigger = trigger
        self._once = once

    def _load_model(self) -> AceModel:
        model = super()._load_model()
        generate = model.generate

        def sick(jobs: Sequence[ModelJob], *more: Any) -> list[np.ndarray]:
            hit = any(self._trigger in job.prompt for job in jobs) and self._is_sick()
            with failing_in_its_second_step(model, RuntimeError(STICKY) if hit else None):
                return generate(jobs, *more)

        model.generate = sick  # type: ignore[method-assign]
        return model

    def _is_sick(self) -> bool:
        if self._once is None:
            return True
        try:
            os.close(os.open(self._once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
