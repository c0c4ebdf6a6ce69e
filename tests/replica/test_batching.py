"""The thread that owns the model. If these break, items wait for ever, a bad item takes its batch
down, or two items are on the GPU at once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ace_tasks.errors import Cancelled, DeviceLost, OutOfMemory
from ace_tasks.lcu.canvas import LCU
from ace_tasks.model.ace import ModelJob
from ace_tasks.model.fit import MemoryMode
from ace_tasks.replica.batching import Batcher, Ticket
from tests.support.patience import limit_s, wait_until


def job(name: str, side: int = 16, adapter: str | None = None) -> ModelJob:
    unit = LCU(torch.zeros(3, side, side), torch.zeros(1, side, side), None)
    return ModelJob(unit, name, seed=0, steps=1, guidance=1.0, adapter=adapter)


class Gpu:
    """Stands for the model: holds every batch until told, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.inside = 0

    def generate(self, jobs: Sequence[ModelJob], memory: MemoryMode) -> list[np.ndarray]:
        self.inside += 1
        assert self.inside == 1, "two batches at once"
        try:
            self.batches.append([each.prompt for each in jobs])
            assert self.go.wait(limit_s())
            for each in jobs:
                if each.prompt.startswith("bad"):
                    raise RuntimeError(each.prompt)
                if each.prompt.startswith("cancel"):
                    raise Cancelled(each.prompt)
                if each.prompt.startswith("exit"):
                    raise SystemExit(each.prompt)
            return [np.full((1, 1, 3), len(each.prompt), np.uint8) for each in jobs]
        finally:
            self.inside -= 1


def submit(gpu: Gpu, size: int, *names: str | ModelJob) -> list[Ticket]:
    """The first is alone on the GPU while the others queue behind it."""
    batcher = Batcher(gpu.generate, size)
    first = batcher.submit(job("first", side=8))
    first.wait_for_turn()
    tickets = [batcher.submit(job(each) if isinstance(each, str) else each) for each in names]
    gpu.go.set()
    return tickets


def test_what_waits_and_fits_goes_together_oldest_first() -> None:
    gpu = Gpu()
    tickets = submit(gpu, 3, "a", job("wide", 32), "b", job("other", adapter="subject"), "c", "d")
    assert [int(ticket.result()[0, 0, 0]) for ticket in tickets] == [1, 4, 1, 5, 1, 1]
    assert gpu.batches == [["first"], ["a", "b", "c"], ["wide"], ["other"], ["d"]]
    assert [ticket.shared_by for ticket in tickets] == [3, 1, 3, 1, 3, 1]


def test_one_bad_item_does_not_take_its_batch_down() -> None:
    gpu = Gpu()
    tickets = submit(gpu, 4, "a", "bad", "c", "d")
    with pytest.raises(RuntimeError, match="bad"):
        tickets[1].result()
    assert all(tickets[n].result().shape == (1, 1, 3) for n in (0, 2, 3))
    assert gpu.batches[1:] == [["a", "bad", "c", "d"], ["a"], ["bad"], ["c"], ["d"]]
    assert [ticket.shared_by for ticket in tickets] == [1, 1, 1, 1]


def test_a_cancel_is_not_tried_again() -> None:
    gpu = Gpu()
    for ticket in submit(gpu, 4, "a", "cancel", "c"):
        with pytest.raises(Cancelled):
            ticket.result()
    assert len(gpu.batches) == 2


def test_whatever_is_raised_nobody_waits_for_ever() -> None:
    gpu = Gpu()
    broken, after = submit(gpu, 1, "exit", "after")
    with pytest.raises(SystemExit):
        broken.result()
    assert after.result().shape == (1, 1, 3)


def test_after_close_nobody_waits_and_nothing_is_taken() -> None:
    gpu = Gpu()
    batcher = Batcher(gpu.generate, 2)
    running = batcher.submit(job("running"))
    running.wait_for_turn()
    queued = [batcher.submit(job("queued")) for _ in range(3)]
    batcher.close()
    for ticket in queued:
        with pytest.raises(Cancelled):
            ticket.result()
    with pytest.raises(Cancelled):
        batcher.submit(job("late"))
    gpu.go.set()
    assert running.result().shape == (1, 1, 3)
    wait_until(lambda: not works(batcher), "the thread's end", every_s=0.01)


def works(batcher: Batcher) -> bool:
    targets = [getattr(thread, "_target", None) for thread in threading.enumerate()]
    return any(getattr(target, "__self__", None) is batcher for target in targets)


class Tensors:
    """Stands for what a failed pass holds on the GPU."""


def test_a_failed_pass_lets_go_of_its_memory_before_the_next() -> None:
    """Otherwise the retry of a batch that was too large runs out of memory as well."""
    alive: list[int] = []
    held: weakref.ref[Tensors] | None = None

    def generate(jobs: Sequence[ModelJob]) -> list[np.ndarray]:
        nonlocal held
        alive.append(int(held is not None and held() is not None))
        tensors = Tensors()
        held = weakref.ref(tensors)
        if len(jobs) > 1 or jobs[0].prompt == "bad":
            raise torch.OutOfMemoryError("full")
        return [np.zeros((1, 1, 3), np.uint8)]

    gate = threading.Event()
    batcher = Batcher(lambda jobs, _: (gate.wait(limit_s()), generate(jobs))[1], 3)
    tickets = [
        batcher.submit(job(name, side=side))
        for name, side in (("first", 8), ("a", 16), ("bad", 16), ("c", 16), ("after", 32))
    ]
    gate.set()
    for ticket in (tickets[0], tickets[1], tickets[3], tickets[4]):
        assert ticket.result().shape == (1, 1, 3)
    with pytest.raises(OutOfMemory):
        tickets[2].result()
    assert len(alive) == 10  # of three two, then each alone, and the bad one in every mode
    assert not any(alive)


def test_while_its_mates_run_alone_an_item_waits() -> None:
    """Waiting is not work: it must not run into the time limit of items."""
    order: list[str] = []
    gates = {name: threading.Event() for name in ("a", "b")}

    def generate(jobs: Sequence[ModelJob]) -> list[np.ndarray]:
        if len(jobs) > 1:
            raise RuntimeError("together")
        order.append(jobs[0].prompt)
        assert jobs[0].prompt == "first" or gates[jobs[0].prompt].wait(limit_s())
        return [np.zeros((1, 1, 3), np.uint8)]

    start = threading.Event()
    batcher = Batcher(lambda jobs, _: (start.wait(limit_s()), generate(jobs))[1], 2)
    batcher.submit(job("first", side=8))
    tickets = [batcher.submit(job(name)) for name in ("a", "b")]
    start.set()
    tickets[0].wait_for_turn()
    wait_until(lambda: order == ["first", "a"], "a to be made alone", every_s=0.01)
    assert not tickets[1].wait_for_pass()  # its batch failed, and it is not done
    assert tickets[1]._state == "waiting"
    gates["a"].set()
    tickets[1].wait_for_turn()
    gates["b"].set()
    assert all(ticket.result().shape == (1, 1, 3) for ticket in tickets)


def test_a_lost_device_is_reported_as_such_and_not_tried_again() -> None:
    passes: list[int] = []

    def generate(jobs: Sequence[ModelJob]) -> list[np.ndarray]:
        passes.append(len(jobs))
        if len(passes) > 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access")
        return [np.zeros((1, 1, 3), np.uint8)] * len(jobs)

    gate = threading.Event()
    batcher = Batcher(lambda jobs, _: (gate.wait(limit_s()), generate(jobs))[1], 2)
    batcher.submit(job("first", side=8))
    tickets = [batcher.submit(job(name)) for name in ("a", "b")]
    gate.set()
    for ticket in tickets:
        with pytest.raises(DeviceLost, match="illegal memory access"):
            ticket.result()
    assert passes == [1, 2]


@pytest.mark.parametrize(
    "fails",
    [
        "torch.cuda.empty_cache",
        "ace_tasks.replica.batching.Ladder.descend",
        "ace_tasks.replica.batching.Ladder.rung",
    ],
)
def test_an_error_of_the_thread_itself_ends_it_and_nobody_waits(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a device's context is lost every call fails, also one that cleans up after an item."""

    def generate(jobs: Sequence[ModelJob]) -> list[np.ndarray]:
        if jobs[0].prompt == "large":
            raise torch.OutOfMemoryError("full")
        return [np.zeros((1, 1, 3), np.uint8)] * len(jobs)

    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    gate = threading.Event()
    batcher = Batcher(lambda jobs, _: (gate.wait(limit_s()), generate(jobs))[1], 1)
    batcher.submit(job("first", side=8)).wait_for_turn()
    running, waiting = batcher.submit(job("large")), batcher.submit(job("after"))
    monkeypatch.setattr(fails, fail)
    gate.set()
    for ticket in (running, waiting):
        with pytest.raises(DeviceLost, match="illegal memory access"):
            ticket.result()
    with pytest.raises(DeviceLost, match="illegal memory access"):
        batcher.submit(job("later"))
    wait_until(lambda: not works(batcher), "the thread's end", every_s=0.01)


def test_many_threads_each_get_their_own() -> None:
    gpu = Gpu()
    gpu.go.set()
    batcher = Batcher(gpu.generate, 4)
    names = ["x" * (1 + n % 200) for n in range(400)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda name: batcher.submit(job(name)).result()[0, 0, 0], names))
    assert [int(each) for each in found] == [len(name) for name in names]
    assert max(map(len, gpu.batches)) <= 4
