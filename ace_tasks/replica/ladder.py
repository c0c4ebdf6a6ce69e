"""The steps taken when memory runs out, remembered for each canvas.

The batch is halved again and again down to an item alone. Then come modes that keep less of the
model on the device than the replica does by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ace_tasks.images.canvas_size import TOKEN_PX
from ace_tasks.model.ace import ModelJob
from ace_tasks.model.fit import MEMORY_MODES, MemoryMode

Canvas = tuple[int, int]  # (height, width) in pixels


@dataclass
class Rung:
    """The way to run jobs of one canvas: the largest batch, and the memory mode."""

    batch_size: int
    mode: MemoryMode
    failed: list[str] = field(default_factory=list)  # attempts that ran out of memory


class Ladder:
    """The rungs of all canvases that this replica has met."""

    def __init__(self, batch_size: int, mode: MemoryMode = "resident"):
        """Take the largest batch, and the mode in which the replica has started."""
        self._batch_size, self._mode = batch_size, mode
        self._rungs: dict[object, Rung] = {}

    def rung(self, job: ModelJob) -> Rung:
        # An exact pass between fast ones may need more memory, and must not slow them down.
        key = _canvas(job), job.shortcuts
        return self._rungs.setdefault(key, Rung(self._batch_size, self._mode))

    def descend(self, job: ModelJob, shared_by: int) -> bool:
        """Step down after `shared_by` jobs of this canvas ran out of memory.

        Returns False if there is no lower rung.
        """
        rung = self.rung(job)
        attempt = f"{shared_by} together" if shared_by > 1 else f"alone, {rung.mode}"
        if attempt not in rung.failed:
            rung.failed.append(attempt)
        rung.batch_size = (shared_by + 1) // 2
        if shared_by > 1:
            return True
        below = MEMORY_MODES.index(rung.mode) + 1
        if below == len(MEMORY_MODES):
            return False
        rung.mode = MEMORY_MODES[below]
        return True

    def story(self, job: ModelJob) -> str:
        """Describe for a person what did not fit, and what was tried."""
        height, width = _canvas(job)
        tokens = height // TOKEN_PX * (width // TOKEN_PX)
        tried = "; ".join(self.rung(job).failed)
        return f"a canvas of {width}×{height} px, {tokens} tokens; tried: {tried}"


def _canvas(job: ModelJob) -> Canvas:
    _, height, width = job.lcu.mask_1HW.shape
    return height, width
