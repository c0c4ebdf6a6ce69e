"""An item's result depends on the item alone. If this breaks, a rerun, a bigger pool or a sorted
catalog gives other pictures, and no record can be reproduced."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.images import codec
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Done
from ace_tasks.provenance.record import Record
from ace_tasks.settings import PoolSettings, ReplicaSettings, WeightsSettings
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.replica.test_replica import TASKS

pytestmark = pytest.mark.thorough


@pytest.fixture
def items(planned: Callable[..., WorkItem]) -> list[WorkItem]:
    """Twelve items: every task, two canvases, two adapters, some that can share a batch."""
    rows = [
        row | {"id": f"{row['task']}-{n}", "prompt": f"a red mug {n}", "seed": n}
        for n in range(3)
        for row in TASKS
    ]
    return [planned("toy-lora", **row) for row in rows]


def run(
    items: Sequence[WorkItem], output: str, weights_dir: Path, *, actors: int, batch_size: int
) -> None:
    replica = ReplicaSettings(
        variant="toy-lora",
        weights=WeightsSettings(folder=weights_dir),
        output_uri=output,
        batch_size=batch_size,
        torch_threads=2,  # of each, as `flows.steps.pool` has it
    )
    pool = PoolSettings(max_replicas=actors, items_in_flight=batch_size + 2)
    with Dispatcher(replica, pool, "run", lambda *_: None) as dispatcher:
        outcomes = dispatcher.edit(items, 0)
    assert all(isinstance(each, Done) for each in outcomes), outcomes


def pictures(
    items: Sequence[WorkItem], output: str, store: Store
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Row id → pixels as published, and the batch sizes they were made in."""
    found, sizes = {}, []
    for item in items:
        body = store.get(join_uri(output, record_key(item.item_id)))
        record = Record.model_validate_json(body)
        picture = codec.decode(store.get(record.output.uri), codec.ImageLimits())
        assert codec.pixels_sha256(picture.rgb) == json.loads(body)["output"]["pixels_sha256"]
        found[item.row_id] = picture.rgb.astype(int)
        sizes.append(record.sampling.batch_size)
    return found, sizes


def test_neither_order_nor_actors_nor_batch_mates_change_a_picture(
    items: list[WorkItem],
    store: Store,
    prefix: str,
    weights_dir: Path,
    record_property: Any,
) -> None:
    ways = {
        "one": (items, 1, 1),
        "reversed, by two": (items[::-1], 2, 1),
        "batched": (items, 2, 4),
    }
    found = {}
    with ray_session(cpus=2):
        for name, (order, actors, batch_size) in ways.items():
            output = join_uri(prefix, name.replace(", ", "-").replace(" ", "-"))
            run(order, output, weights_dir, actors=actors, batch_size=batch_size)
            found[name], sizes = pictures(items, output, store)
            assert (max(sizes) > 1) == (batch_size > 1)
    for row_id, pixels in found["one"].items():
        assert np.array_equal(found["reversed, by two"][row_id], pixels), row_id
    largest = max(np.abs(found["batched"][row] - found["one"][row]).max() for row in found["one"])
    record_property("largest difference in a batch, levels of 255", int(largest))
    print(f"largest difference with batch 4: {largest} of 255 levels")
    assert largest <= 1
