"""Replicas that break on purpose: what the prompt says, happens inside the actor's process.

They load no model, so that a test of the dispatcher can afford to lose many of them. Everything
else about them is real: their own process, Ray's actors, the clock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from ace_tasks.errors import BadImage, Cancelled, DeviceLost, WeightsError, WeightsUnavailable
from ace_tasks.provenance.outcomes import Done, Failed, Outcome
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import ModelIdentity, Sources, WorkItem, parse_spec, work_item

log = logging.getLogger("ace_tasks.tests")  # as ours are

MODEL = ModelIdentity(
    variant="sleeping",
    route="fft",
    base="b",
    encoders="e",
    adapters={},
    steps=1,
    guidance=1,
    max_seq_len=16,
    width_px=64,
    height_px=64,
    dtype="float32",
)


def item(number: int, prompt: str = "sleep 0.01", **more: Any) -> WorkItem:
    """A work item whose prompt is an order to SleepingReplica."""
    row = {"id": f"row-{number}", "task": "reference", "prompt": prompt, "reference": "x.png"}
    return work_item(number, parse_spec(row | {"seed": number} | more), Sources(), MODEL)


class SleepingReplica:
    """Prompts: `sleep S`, `wait PATH` (for a file), `bad`, `exit`, `hang`, `freeze`,
    `exit-once PATH`, `device-lost-once PATH`, `fatal`."""

    def __init__(self, settings: ReplicaSettings, run_id: str, name: str):
        self.name = name
        self._gpu = threading.Lock()
        self._cancelled = threading.Event()
        self._since: dict[str, float] = {}
        self._orders = 0

    def start(self) -> None:
        pass

    def run(self, item: WorkItem, shard: int, attempt: int) -> Outcome:
        order, _, detail = item.resolved.prompt.partition(" ")
        log.info("an order is obeyed")
        while order == "wait" and not Path(detail).exists():
            self._sleep(0.02)
        with self._gpu:
            self._orders += 1
            self._since[item.item_id] = time.monotonic()
            try:
                return self._obey(order, detail, item, attempt)
            finally:
                del self._since[item.item_id]

    def _obey(self, order: str, detail: str, item: WorkItem, attempt: int) -> Outcome:
        if order == "exit" or (order == "exit-once" and _first_time(Path(detail))):
            os._exit(3)
        if order == "device-lost-once" and _first_time(Path(detail)):
            raise DeviceLost("AcceleratorError: an illegal memory access was encountered")
        if order != "sleep":
            detail = ""
        if order == "hang":
            while True:  # deaf to cancel, as a stuck driver call is
                time.sleep(1)
        if order == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1)  # the signal takes a moment; an answer must not get out before it
        if order == "fatal":
            raise WeightsError("the weights are wrong")
        if order == "bad":
            error = BadImage("no picture")
            return Failed(
                item_id=item.item_id, code=error.code, message=str(error), transient=False
            )
        self._sleep(float(detail or 0))
        return Done(
            item_id=item.item_id,
            output_uri=f"{self.name}-{os.getpid()}",
            sha256="0",
            seconds=0,
            timings_s={"generate": float(detail or 0)},
        )

    def _sleep(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise Cancelled("cancelled")

    def store_trouble(self) -> Counter[tuple[str, bool]]:
        """One call an item had to be tried again."""
        return Counter({("StoreUnavailable", True): self._orders})

    def busy_s(self) -> dict[str, float]:
        return {key: time.monotonic() - since for key, since in self._since.copy().items()}

    def cancel(self) -> None:
        self._cancelled.set()


class BatchingReplica(SleepingReplica):
    """Items in it share one pass, as on a GPU with batches: whoever hangs, all are at work."""

    def __init__(self, settings: ReplicaSettings, run_id: str, name: str):
        super().__init__(settings, run_id, name)
        self._gpu = contextlib.nullcontext()  # type: ignore[assignment]
        self._hung = threading.Event()

    def _obey(self, order: str, detail: str, item: WorkItem, attempt: int) -> Outcome:
        if order == "hang":
            self._hung.set()
        outcome = super()._obey(order, detail, item, attempt)
        while self._hung.is_set():  # for its mate, for ever
            time.sleep(1)
        return outcome


class HungryReplica(SleepingReplica):
    """Prompt `eat-once PATH`: the first time it takes memory until it is ended."""

    def _obey(self, order: str, detail: str, item: WorkItem, attempt: int) -> Outcome:
        eaten = []
        if order == "eat-once" and _first_time(Path(detail)):
            # Nobody ended it: it leaves the machine enough to say so.
            while psutil.virtual_memory().available > 2 * 2**30:
                eaten.append(b"x" * 2**27)
                time.sleep(0.1)
        return super()._obey(order, detail, item, attempt)


class FullDisk(SleepingReplica):
    """The second node's disk is full. `log`: gets the time of every try to start there."""

    log: Path | None = None

    def start(self) -> None:
        if self.name == "replica-0":
            return
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{time.time()}\n")
        raise WeightsUnavailable("/weights: No space left on device")


def full_disk_with_log(log: Path, *arguments: Any) -> FullDisk:
    replica = FullDisk(*arguments)
    replica.log = log
    return replica


class NeverStarts(SleepingReplica):
    """Its process ends while it loads."""

    def start(self) -> None:
        os._exit(4)


class WaitsToLoad(SleepingReplica):
    """Loads until a file is there."""

    go: Path | None = None

    def start(self) -> None:
        while self.go and not self.go.exists():
            self._sleep(0.02)


def waits_to_load(go: Path, *arguments: Any) -> WaitsToLoad:
    replica = WaitsToLoad(*arguments)
    replica.go = go
    return replica


class CountsWrong(SleepingReplica):
    """Its metrics cannot be read."""

    def store_trouble(self) -> Counter[tuple[str, bool]]:
        raise RuntimeError("dictionary changed size during iteration")


class WrongWeights(SleepingReplica):
    def start(self) -> None:
        raise WeightsError("transformer/model.safetensors: altered")


def _first_time(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
