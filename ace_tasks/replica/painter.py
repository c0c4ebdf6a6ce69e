"""The best picture of an item, made by the models of one process.

A replica and `Editor` both paint with it. It uses no store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ace_tasks.errors import BadOutput
from ace_tasks.images.codec import Pictures
from ace_tasks.model.vision import Vision
from ace_tasks.provenance.record import LossRecord
from ace_tasks.replica.batching import Batcher, Ticket
from ace_tasks.replica.candidates import BestOf, Candidate, judge
from ace_tasks.replica.comparison import measure_loss
from ace_tasks.replica.edit import EditedPixels, PictureEdit, Route
from ace_tasks.replica.progress import WAITING, Progress
from ace_tasks.specs import Resolved

Keep = Callable[[int, EditedPixels], None]
"""A function that gets the number and the pixels of every candidate, before any preset."""


@dataclass(frozen=True, eq=False)
class Painted:
    """An item's candidates, and the ticket of the best one, or None if no model ran."""

    candidates: BestOf
    ticket: Ticket | None

    @property
    def best(self) -> Candidate:
        return self.candidates.winner()

    @property
    def seed(self) -> int:
        """The seed of the best candidate."""
        return self.candidates.seeds[self.best.number]

    @property
    def ran(self) -> bool:
        """Return whether a model ran."""
        return self.ticket is not None


class Painter:
    """ACE++ behind the one thread that owns it, and the small models. Thread-safe."""

    def __init__(self, route: Route, gpu: Batcher, vision: Vision):
        self._route, self._gpu, self._vision = route, gpu, vision

    def prepare(self, resolved: Resolved, pictures: Pictures) -> PictureEdit:
        """Prepare an item for the model. Raises BadImage, BadMask and FatalError."""
        return PictureEdit.prepare(
            resolved,
            pictures,
            route=self._route,
            segment=self._vision.segment,
            estimate=self._vision.draw,
        )

    def paint(self, edit: PictureEdit, progress: Progress, keep: Keep | None = None) -> Painted:
        """Paint every candidate of an item.

        While one is finished and scored, the next is on the GPU. Raises BadOutput if none of them
        is a picture, and what the model raised.
        """
        best_of = BestOf(edit.seeds)
        tickets = [self._gpu.submit(job) for job in edit.jobs()]
        if not tickets:
            self._enter(best_of, edit, None)
            return Painted(best_of, None)
        try:
            for number, ticket in enumerate(tickets):
                try:
                    canvas = _wait(ticket, progress)
                except BadOutput as error:
                    best_of.refuse(error)
                    continue
                with progress.in_phase("encode"):
                    pixels = self._enter(best_of, edit, canvas)
                    if keep is not None:
                        keep(number, pixels)
        finally:
            self._gpu.withdraw(tickets)  # those that nobody waits for any more
        # What this item cost the GPU, so that the sum over items is the time it was busy.
        progress.timings_s["generate"] = round(sum(ticket.gpu_s for ticket in tickets), 4)
        return Painted(best_of, tickets[best_of.winner().number])

    def paint_exactly(self, edit: PictureEdit, painted: Painted, progress: Progress) -> LossRecord:
        """Make the best candidate again without shortcuts, and return what they lost.

        Raises what the model raised.
        """
        (job,) = edit.jobs([painted.seed])
        canvas = _wait(self._gpu.submit(replace(job, shortcuts=None)), progress, "compare")
        with progress.in_phase("compare"):
            exact = edit.repaint(canvas)
            scores = judge(edit, exact, self._vision.scorer)
            return measure_loss(edit, painted.best, Candidate(painted.best.number, exact, scores))

    def _enter(self, best_of: BestOf, edit: PictureEdit, canvas: np.ndarray | None) -> EditedPixels:
        """Finish a candidate, except for its preset, and score it."""
        pixels = edit.repaint(canvas)
        best_of.enter(pixels, judge(edit, pixels, self._vision.scorer))
        return pixels


def _wait(ticket: Ticket, progress: Progress, phase: str = "generate") -> np.ndarray:
    """Wait for a ticket's canvas, (H, W, 3) uint8. Raises what the model raised."""
    made = False
    while not made:
        with progress.in_phase(WAITING):
            ticket.wait_for_turn()
        with progress.in_phase(phase):
            made = ticket.wait_for_pass()
    return ticket.result()
