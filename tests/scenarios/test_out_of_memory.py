"""Out of memory: degrade, don't die. If these break, one large canvas fails its neighbours, or
every pass of a catalog fails before it works."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.errors import DeviceLost
from ace_tasks.model.fit import measure
from ace_tasks.model.variants import find_variant
from ace_tasks.model.weights import ensure
from ace_tasks.provenance.keys import failure_key, record_key
from ace_tasks.provenance.outcomes import Done, Failed, Outcome
from ace_tasks.provenance.record import Failure, Record
from ace_tasks.settings import MarkSettings, PoolSettings, ReplicaSettings, WeightsSettings
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.support import replicas
from tests.support.sick_devices import STICKY, SickDevice, SmallDevice

TOKENS = 24  # of the 96×64 picture that the tests edit
Planned = Callable[..., WorkItem]
Open = Callable[..., SmallDevice]


@pytest.fixture
def device(weights_dir: Path, prefix: str) -> Open:
    def open_device(capacity: float, batch_size: int = 4, place: str = "out") -> SmallDevice:
        settings = ReplicaSettings(
            variant="toy",
            weights=WeightsSettings(folder=weights_dir),
            output_uri=join_uri(prefix, place),
            batch_size=batch_size,
            marks=MarkSettings(xmp=False),  # XMP names the output, so files of two would differ
        )
        return SmallDevice(settings, capacity)

    return open_device


@pytest.fixture
def edits(planned: Planned) -> Callable[[range], list[WorkItem]]:
    def make(numbers: range, image: str = "in/image.png") -> list[WorkItem]:
        return [planned(task="edit", image=image, id=f"row-{n}", seed=n) for n in numbers]

    return make


def record_of(store: Store, prefix: str, item: WorkItem) -> Record:
    key = record_key(item.item_id)
    return Record.model_validate_json(store.get(join_uri(prefix, f"out/{key}")))


def made(outcomes: list[Outcome]) -> list[str]:
    assert all(isinstance(each, Done) for each in outcomes), outcomes
    return [each.sha256 for each in outcomes if isinstance(each, Done)]


def test_a_batch_is_halved_and_halved_again_and_never_so_large_again(
    device: Open, edits: Any, store: Store, prefix: str
) -> None:
    small = device(1.5 * TOKENS)
    (first, *items) = edits(range(5))
    outcomes = small.run_together(first, items)
    assert [(n, fits) for n, _, _, fits in small.passes] == [
        (1, True),
        (4, False),
        (2, False),
        (1, True),
        (1, True),
        (1, True),
        (1, True),
    ]
    assert made(outcomes) == made([device(100).run(each, 0) for each in items])
    assert {record_of(store, prefix, each).sampling.batch_size for each in items} == {1}

    small.passes.clear()
    (first, *more) = edits(range(10, 15))
    made(small.run_together(first, more))
    assert [(n, fits) for n, _, _, fits in small.passes] == [(1, True)] * 5

    small.passes.clear()
    (first, *others) = edits(range(20, 25), "in/ref.png")  # 16 tokens: two of them fit
    made(small.run_together(first, others))
    assert [(n, fits) for n, _, _, fits in small.passes] == [
        (1, True),
        (4, False),
        (2, True),
        (2, True),
    ]
    assert record_of(store, prefix, others[2]).sampling.batch_size == 2


@pytest.mark.parametrize(
    ("capacity", "mode"),
    [(0.8 * TOKENS, "text_offload"), (0.6 * TOKENS, "blocks"), (0.5 * TOKENS, "offload")],
)
def test_an_item_that_does_not_fit_alone_fits_where_less_is_kept(
    device: Open, edits: Any, store: Store, prefix: str, capacity: float, mode: str
) -> None:
    small = device(capacity)
    items = edits(range(2))
    assert made([small.run(each, 0) for each in items]) == made(
        [device(100, place="large").run(each, 0) for each in items]
    )
    record = record_of(store, prefix, items[1])
    assert (record.model.memory_mode, record.sampling.batch_size) == (mode, 1)
    failed = [each for each in small.passes if not each[3]]
    assert len(small.passes) == len(failed) + 2  # the second item knew it


def test_a_replica_starts_in_the_fastest_way_that_fits_its_device_and_says_which(
    weights_dir: Path, prefix: str, edits: Any, store: Store, device: Open,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    weights = WeightsSettings(folder=weights_dir)
    sizes = measure(find_variant("toy"), ensure(find_variant("toy"), weights))
    free = sizes.vae + sizes.work + sizes.transformer // 2
    (item,) = edits(range(1))
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr("ace_tasks.model.fit.free_bytes", lambda _: free)
        small = device(100)
    (loaded,) = [each for each in caplog.records if each.message == "model loaded"]
    assert (loaded.memory, loaded.reason) == (  # type: ignore[attr-defined]
        "blocks", "1.2 GB are free; everything takes 1.2 GB"
    )  # fmt: skip
    done = small.run(item, 0)
    assert [mode for *_, mode, _ in small.passes] == ["blocks"]
    assert made([done]) == made([device(100, place="large").run(item, 0)])
    assert record_of(store, prefix, item).model.memory_mode == "blocks"
    assert isinstance(done, Done)
    assert done.memory_mode == "blocks"


def test_what_fits_nowhere_fails_with_its_shape_and_the_next_item_is_fine(
    device: Open, edits: Any, store: Store, prefix: str
) -> None:
    small = device(0.35 * TOKENS)
    (item,), (smaller,) = edits(range(1)), edits(range(7, 8), "in/ref.png")
    outcome = small.run(item, 0)
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.transient) == ("out_of_memory", False)
    assert outcome.message == (
        "a canvas of 96×64 px, 24 tokens; tried: alone, resident; alone, text_offload; "
        "alone, blocks; alone, offload; OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 "
        "has a total capacity of 79.11 GiB."
    )
    key = failure_key(item.item_id)
    failure = Failure.model_validate_json(store.get(join_uri(prefix, f"out/{key}")))
    assert (failure.code, failure.message) == (outcome.code, outcome.message)
    assert made([small.run(smaller, 0)]) == made([device(100, place="large").run(smaller, 0)])
    assert isinstance(small.run(item, 0), Failed)
    assert small.passes[-1][1:] == (TOKENS, "offload", False)
    small.capacity = 100
    assert made([small.run(item, 0)]) == made([device(100, place="large").run(item, 0)])


def test_in_a_batch_only_the_items_that_fit_nowhere_fail(device: Open, edits: Any) -> None:
    small = device(0.35 * TOKENS)
    (first,), large, smaller = (
        edits(range(1), "in/ref.png"),
        edits(range(1, 3)),
        edits(range(3, 5), "in/ref.png"),
    )
    outcomes = small.run_together(first, [large[0], smaller[0], large[1], smaller[1]])
    assert [isinstance(each, Done) for each in outcomes] == [False, True, False, True]
    assert isinstance(outcomes[0], Failed)
    assert "tried: 2 together; alone, resident" in outcomes[0].message


def test_candidates_share_the_ladder(
    device: Open, planned: Planned, store: Store, prefix: str
) -> None:
    small = device(2 * TOKENS)
    item = planned(task="edit", image="in/image.png", candidates=6, seed=3)
    again = device(100, batch_size=1, place="large").run(item, 0)
    assert len(made([small.run(item, 0), again])) == 2
    assert record_of(store, prefix, item).candidates.count == 6
    assert sum(n for n, _, _, fits in small.passes if fits) == 6
    assert max(n for n, _, _, fits in small.passes if fits) == 2


def test_when_small_models_run_out_the_item_fails_with_its_code(
    device: Open, edits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = device(100)
    (item,) = edits(range(1))
    monkeypatch.setattr(
        small, "_prepare", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA …"))
    )
    outcome = small.run(item, 0)
    assert isinstance(outcome, Failed)
    assert outcome.code == "out_of_memory"
    monkeypatch.setattr(small, "_prepare", lambda *_: (_ for _ in ()).throw(RuntimeError(STICKY)))
    with pytest.raises(DeviceLost, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        small.run(item, 0)


# ---------------------------------------------------------------- a device that is lost


@pytest.mark.thorough
@pytest.mark.parametrize("once", [True, False])
def test_after_a_sticky_error_a_clean_process_goes_on(
    planned: Planned, weights_dir: Path, prefix: str, store: Store, tmp_path: Path, once: bool
) -> None:
    """A real actor dies with four items in it. Nobody is blamed for once; who does it whenever it
    runs alone is.
    """
    items = [
        planned(
            task="edit",
            image="in/image.png",
            id=f"row-{n}",
            seed=n,
            prompt="the sick one" if n == 3 else "a mug",
        )
        for n in range(8)
    ]
    settings = ReplicaSettings(
        variant="toy",
        weights=WeightsSettings(folder=weights_dir),
        output_uri=prefix,
        batch_size=4,
        torch_threads=1,
    )
    make: Any = partial(SickDevice, "sick", tmp_path / "happened" if once else None)
    written: list[Failed] = []
    with (
        ray_session(cpus=1),
        Dispatcher(
            settings,
            PoolSettings(items_in_flight=6),
            "run",
            lambda _, failed: written.append(failed),
            make,
        ) as dispatcher,
    ):
        outcomes = dispatcher.edit(items, 0)
    assert len(outcomes) == 8
    assert [each.code for each in written] == ([] if once else ["quarantined"])
    assert dispatcher.status.deaths == (1 if once else 3)
    done = {each.item_id for each in outcomes if isinstance(each, Done)}
    assert done == {each.item_id for each in items if once or each is not items[3]}
    processes = {
        Record.model_validate_json(store.get(join_uri(prefix, record_key(each)))).run.replica
        for each in done
    }
    assert len(processes) >= 1


@pytest.mark.alone
def test_what_ray_s_memory_monitor_kills_is_edited_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica takes more of its node's memory than there is. Else the whole run ended with it."""
    memory = psutil.virtual_memory()
    # Ray's own processes take a gigabyte of what is free.
    limit = memory.total - memory.available + min(5 * 2**30, memory.available // 2)
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit / memory.total:.4f}")
    settings = ReplicaSettings(
        variant="toy", weights=WeightsSettings(folder=tmp_path), output_uri="s3://unused"
    )
    written: list[Failed] = []
    with (
        ray_session(cpus=1),
        Dispatcher(
            settings,
            PoolSettings(items_in_flight=3),
            "run",
            lambda _, failed: written.append(failed),
            replicas.HungryReplica,
        ) as dispatcher,
    ):
        orders = [f"eat-once {tmp_path / 'eaten'}", "sleep 0.1", "sleep 0.1"]
        items = [replicas.item(n, order) for n, order in enumerate(orders)]
        outcomes = dispatcher.edit(items, 0)
    made(outcomes)
    assert len(outcomes) == 3
    assert written == []
    assert dispatcher.status.deaths >= 1


def test_a_device_that_fails_while_it_is_cleaned_up_is_lost_and_no_item_is_blamed(
    device: Open,
    edits: Callable[[range], list[WorkItem]],
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the item stays `running` until it times out for good, and so does whoever waits."""

    def lost() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("torch.cuda.empty_cache", lost)
    small = device(capacity=0)
    for item in edits(range(2)):
        with pytest.raises(DeviceLost, match="illegal memory access"):
            small.run(item, 0)
    assert not list(store.list(f"{prefix}/out/failures/"))
