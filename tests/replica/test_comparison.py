"""What a fast picture lost. If these break, a run tells a loss that its pictures do not have, or a
picture is lost for the sake of a measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ace_tasks.images import codec
from ace_tasks.images.closeness import psnr
from ace_tasks.model.ace import AceModel
from ace_tasks.provenance.outcomes import Done
from ace_tasks.specs import DEFAULT_PIXELS, PixelSettings, Shortcuts, WorkItem
from ace_tasks.store import Store
from tests.replica.test_replica import FILL, new_replica, record_of

FAST = PixelSettings(shortcuts=Shortcuts())


def test_a_fast_picture_says_so_and_what_it_lost(
    planned: Callable[..., WorkItem], weights_dir: Path, store: Store, prefix: str
) -> None:
    """In its record and in its file; beside the very picture that an exact run makes."""
    exact, fast, other = (
        planned("toy-lora", pixels, **FILL, steps=8, seed=seed)
        for pixels, seed in ((DEFAULT_PIXELS, 1), (FAST, 1), (FAST, 2))
    )
    new_replica(weights_dir, prefix, "toy-lora").run(exact, 0)
    replica = new_replica(
        weights_dir, prefix, "toy-lora", speed="fast", made_twice=frozenset({fast.item_id})
    )
    done = replica.run(fast, 0)
    assert isinstance(done, Done), done
    record, slow = record_of(store, prefix, fast), record_of(store, prefix, exact)
    assert (record.model.speed, record.model.precision) == ("fast", None)
    assert (record.sampling.steps, record.sampling.computed_steps) == (8, 5)
    assert record.resolved["shortcuts"] == Shortcuts().model_dump()
    assert record.loss == done.loss
    assert done.loss is not None
    assert (done.loss.fast, done.loss.exact) == (record.scores, slow.scores)
    made, expected = (
        codec.decode(store.get(each.output.uri), codec.ImageLimits()) for each in (record, slow)
    )
    part = np.zeros((64, 96), bool)
    part[10:40, 20:70] = True  # the mask
    assert done.loss.psnr_db == pytest.approx(psnr(made.rgb, expected.rgb, part), abs=0.01)
    difference = np.abs(made.rgb.astype(int) - expected.rgb)[part]
    assert done.loss.largest_difference == difference.max() > 5
    assert b"variant toy-lora, speed fast (lossy)" in (made.xmp or b"")
    assert b"variant toy-lora" in (expected.xmp or b"")
    assert b"speed fast" not in (expected.xmp or b"")
    assert "compare" in record.timings_s
    assert slow.loss is slow.sampling.computed_steps is None

    assert isinstance(replica.run(other, 0), Done)
    assert record_of(store, prefix, other).loss is None  # it was not to be made twice


def test_a_loss_that_cannot_be_measured_costs_no_picture(
    planned: Callable[..., WorkItem], weights_dir: Path, store: Store, prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The exact pass needs more memory than the fast ones."""
    item = planned("toy-lora", FAST, **FILL, steps=8)
    replica = new_replica(
        weights_dir, prefix, "toy-lora", speed="fast", made_twice=frozenset({item.item_id})
    )
    generate = AceModel.generate

    def without_room(model: AceModel, jobs: Any, *more: Any) -> Any:
        if jobs[0].shortcuts is None:
            raise torch.OutOfMemoryError("no room")
        return generate(model, jobs, *more)

    monkeypatch.setattr(AceModel, "generate", without_room)
    done = replica.run(item, 0)
    assert isinstance(done, Done)
    assert done.loss is None
    record = record_of(store, prefix, item)
    assert (record.loss, record.model.memory_mode) == (None, "resident")
