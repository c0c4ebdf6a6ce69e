"""The actor in a replica's own process, and the values that it sends to the dispatcher."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ray

from ace_tasks.engine.prometheus import StoreMetrics
from ace_tasks.errors import Cancelled, DeviceLost, FatalError
from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.replica import logs
from ace_tasks.settings import ReplicaSettings
from ace_tasks.specs import WorkItem

if TYPE_CHECKING:
    from ace_tasks.replica.replica import Replica

log = logging.getLogger(__name__)

MakeReplica = Callable[[ReplicaSettings, str, str], "Replica"]

EXIT_DEVICE_LOST = 70


@dataclass(frozen=True)
class Abort:
    """The reason why an actor gave no outcome, as a plain value that can cross Ray.

    `kind` is `fatal` if the run cannot go on, `cancelled` if the actor was asked to stop, and
    `start` if this actor cannot start but another may.
    """

    message: str
    kind: Literal["fatal", "cancelled", "start"]


def make_replica(settings: ReplicaSettings, run_id: str, name: str) -> Replica:
    from ace_tasks.replica.replica import Replica  # loads torch: inside the actor only

    return Replica(settings, run_id, name)


class ReplicaActor:
    """The actor of one replica. Its methods return values; an exception means a bug of ours."""

    def __init__(self, make: MakeReplica, settings: ReplicaSettings, run_id: str, name: str):
        logs.to_stderr(run_id=run_id, replica=name)
        self._metrics = StoreMetrics()
        self._make: Callable[[], Replica] = lambda: make(settings, run_id, name)
        self._replica: Replica | None = None

    def where(self) -> str:
        """Return the node's id, as soon as the process is there."""
        return str(ray.get_runtime_context().get_node_id())

    def start(self) -> Abort | None:
        """Load the model. Returns an Abort if it cannot be loaded."""
        try:
            self._replica = self._make()
            self._replica.start()
        except FatalError as error:
            return Abort(f"{type(error).__name__}: {error}", "fatal")
        except Exception as error:  # this node's disk, driver or memory; not the weights' fault
            return Abort(f"{type(error).__name__}: {error}"[:500], "start")
        return None

    def run(self, item: WorkItem, shard: int, attempt: int) -> Outcome | Abort:
        assert self._replica is not None
        try:
            with logs.about(shard=shard, row_id=item.row_id, item_id=item.item_id, attempt=attempt):
                return self._replica.run(item, shard, attempt)
        except FatalError as error:
            return Abort(f"{type(error).__name__}: {error}", "fatal")
        except Cancelled as error:
            return Abort(str(error), "cancelled")
        except DeviceLost as error:  # its death is judged like any other
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(EXIT_DEVICE_LOST)
        finally:
            self._report_metrics()

    def _report_metrics(self) -> None:
        """Report the metrics. A failure to do so does not touch the item's outcome."""
        assert self._replica is not None
        try:
            self._metrics.report(self._replica.store_trouble())
        except Exception:
            log.exception("could not report metrics")

    def busy_s(self) -> dict[str, float]:
        return self._replica.busy_s() if self._replica else {}

    def cancel(self) -> None:
        if self._replica:
            self._replica.cancel()
