"""Chaos: break every part of a run at random moments, resume until it is done, re-read everything.

    python -m tests.support.chaos --seed 1

All parts are real: SeaweedFS, a Prefect server, a Ray cluster of several raylets on this machine,
the toy model. Events come when the run has reached random shares of its items, so all of them hit
a run at work. Replicas are not killed while an item runs alone: a death then is evidence against
that item, and two would quarantine an innocent one. That is the rule, not a fault. Meanwhile the output is
swept of pictures of whatever age, and sources are forgotten, which no later start may edit. So that no event
comes too late, the run is held once it has gone `_SLACK_ITEMS` past an event that still waits.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

# Before Ray is imported, here and in the flow: everything on the loopback.
os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # as in a session of ours
}

from ray.cluster_utils import Cluster

from ace_tasks.provenance.orphans import orphans
from ace_tasks.provenance.record import Record
from ace_tasks.runs.forget import Forget
from ace_tasks.runs.sweep import sweep
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from infra.prefect_server import PrefectServer
from infra.services import ROOT
from tests.support.patience import limit_s

BUCKET = "chaos"
OUTPUT = f"s3://{BUCKET}/out"
CATALOG = f"s3://{BUCKET}/catalog.jsonl"
REPLICAS = 2
_LIMIT_S = limit_s(1800)
_SLACK_ITEMS = 10

Strike = Callable[[], bool]
"""Breaks one part; false if this is not the moment."""
Event = tuple[int, str, Strike]
"""After how many items, what, and how."""


@dataclass
class Plan:
    """A plan of what to break, and how often."""

    seed: int = 1
    items: int = 500
    replica_kills: int = 10
    node_kills: int = 2
    store_kills: int = 2
    flow_kills: int = 2
    sweeps: int = 2
    forgets: int = 2
    batch_size: int = 4

    @property
    def kills(self) -> int:
        return self.replica_kills + self.node_kills + self.store_kills + self.flow_kills

    @property
    def events(self) -> int:
        return self.kills + self.sweeps + self.forgets

    @property
    def bound(self) -> int:
        """Return how many items may be computed again: all in flight, at every kill."""
        return REPLICAS * (self.batch_size + 2) * self.kills


@dataclass
class Outcome:
    """The state of all things when the run was done."""

    records: int = 0
    pictures: int = 0
    forgotten: int = 0
    wrong: list[str] = field(default_factory=list)
    orphans: int = 0
    computed: int = 0
    repeated: int = 0
    done: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    seconds: float = 0
    last_line: str = ""

    def is_good(self, plan: Plan) -> bool:
        """Nothing lost, nothing published twice, little repeated; and it was broken as planned."""
        return (
            self.records == self.pictures == plan.items - plan.forgets
            and self.forgotten == plan.forgets
            and not self.wrong
            and self.repeated <= plan.bound
            and self.done.total() == plan.events
        )


class Harness:
    """The services, the run, and the hand that breaks them."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan = plan
        self.folder = folder
        self.random = random.Random(plan.seed)
        self.object_store = ObjectStore(folder / "store")
        self.prefect = PrefectServer(folder / "prefect")
        self.flow: subprocess.Popen[bytes] | None = None
        self.outcome = Outcome()
        self.forgotten: list[str] = []

    def run(self) -> Outcome:
        started = time.monotonic()
        with self._services() as env:
            self.store = Store(StoreSettings())
            self._upload()
            self._break_until_done(env)
            self._read_everything()
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    @contextlib.contextmanager
    def _services(self) -> Iterator[dict[str, str]]:
        with contextlib.ExitStack() as stop:
            stop.callback(self.object_store.kill)
            self.object_store.start()
            stop.callback(self.prefect.stop)
            self.prefect.start()
            # Raylets hand their environment on to the actors.
            env = (
                self.object_store.env
                | self.prefect.env
                | {
                    "ACE_WEIGHTS_DIR": str(self.folder / "weights"),
                    "ACE_BATCH_SIZE": str(self.plan.batch_size),
                    "PREFECT_LOGGING_LEVEL": "ERROR",
                }
            )
            os.environ.update(env)
            self.cluster = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
            )
            stop.callback(self.cluster.shutdown)
            self.nodes = [self._add_node() for _ in range(REPLICAS)]
            stop.callback(self._kill_flow)
            yield env | {"RAY_ADDRESS": self.cluster.address}

    def _add_node(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    def _upload(self) -> None:
        self.store.create_bucket(BUCKET)
        rows = []
        for number in range(self.plan.items):
            noise = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
            out = io.BytesIO()
            Image.fromarray(noise).save(out, "PNG")
            image = f"s3://{BUCKET}/in/{number}.png"
            self.store.put(image, out.getvalue(), "image/png")
            rows.append(
                {
                    "id": f"row-{number}",
                    "task": "edit",
                    "image": image,
                    "prompt": "p",
                    "steps": 100 + 10 * (number % 2),
                    "seed": number,
                }
            )
        self.store.put(CATALOG, "\n".join(map(json.dumps, rows)).encode(), "text/plain")

    # ------------------------------------------------------------ breaking

    def _break_until_done(self, env: dict[str, str]) -> None:
        # Each needs about ten seconds to recover from; the items are slow enough to wait for all.
        events: list[tuple[str, Strike]] = [
            *[("replica", self._kill_replica)] * self.plan.replica_kills,
            *[("node", self._kill_node)] * self.plan.node_kills,
            *[("store", self._kill_store)] * self.plan.store_kills,
            *[("flow", self._kill_flow)] * self.plan.flow_kills,
            *[("sweep", self._sweep)] * self.plan.sweeps,
            *[("forget", self._forget)] * self.plan.forgets,
        ]
        self.random.shuffle(events)
        shares = sorted(self.random.uniform(0.03, 0.6) for _ in events)
        agenda: list[Event] = [
            (int(share * self.plan.items), *event)
            for share, event in zip(shares, events, strict=True)
        ]
        deadline, is_last = time.monotonic() + _LIMIT_S, False
        while True:
            if time.monotonic() > deadline:
                log = (self.folder / "flow.log").read_text()[-4000:]
                raise TimeoutError(f"not done after {_LIMIT_S:g} s: {self.outcome}\n{log}")
            if self.flow is None:
                self._start_flow(env)
            assert self.flow
            code = self.flow.poll()
            if code == 0 and (is_last or not self.plan.forgets):
                break
            if code == 0:  # once more, in peace: what is forgotten is not made again
                is_last, self.flow = True, None
                continue
            if code is not None:  # it ended by itself, as after an outage too long: go on
                self.flow = None
                continue
            if agenda and (records := self._records()) >= agenda[0][0]:
                self._break_what_is_due(agenda, records)
                self._hold(any(due + _SLACK_ITEMS <= records for due, *_ in agenda))
            time.sleep(0.3)
        log = (self.folder / "flow.log").read_text().strip().splitlines()
        self.outcome.last_line = log[-1] if log else ""
        self.flow = None

    def _break_what_is_due(self, agenda: list[Event], records: int) -> None:
        """Break the first that can be broken now: one that has to wait holds up none of the others."""
        for event in agenda:
            due, kind, strike = event
            if due <= records and strike():
                self.outcome.done[kind] += 1
                agenda.remove(event)
                return

    def _hold(self, hold: bool) -> None:
        """Let the run give out no further item, or let it go on."""
        path = self.folder / "hold"
        if hold:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def _start_flow(self, env: dict[str, str]) -> None:
        self.outcome.runs += 1
        (self.folder / "alone").unlink(missing_ok=True)
        with (self.folder / "flow.log").open("ab") as log:
            self.flow = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.watched_flow",
                    CATALOG,
                    OUTPUT,
                    str(self.folder),
                ],
                env=os.environ | env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _records(self) -> int:
        return sum(1 for _ in self.store.list(join_uri(OUTPUT, "records/")))

    def _nobody_runs_alone(self) -> bool:
        try:
            return (self.folder / "alone").read_text() == "0"
        except FileNotFoundError:
            return False

    def _kill_replica(self) -> bool:
        # Our own raylets' workers only: another cluster may run on this machine.
        family = psutil.Process().children(recursive=True)
        actors = [each for each in family if _title(each).startswith("ray::ReplicaActor")]
        if not actors or not self._nobody_runs_alone():
            return False
        self.random.choice(actors).kill()
        return True

    def _kill_node(self) -> bool:
        if not self._nobody_runs_alone():
            return False
        node = self.nodes.pop(self.random.randrange(len(self.nodes)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self._add_node())
        return True

    def _kill_store(self) -> bool:
        self.object_store.kill()
        time.sleep(self.random.uniform(2, 8))
        self.object_store.start()
        return True

    def _kill_flow(self) -> bool:
        if self.flow is not None and self.flow.poll() is None:
            self.flow.kill()
            self.flow.wait()
            self.flow = None
            return True
        return False

    def _sweep(self) -> bool:
        """Take pictures without a record, however young: those of a replica at work may be among them."""
        for _ in sweep(self.store, OUTPUT, 0.0, delete=True):
            pass
        return True

    def _forget(self) -> bool:
        """The source of a picture that is there; it is to do again, and nobody may make it."""
        records = [each.uri for each in self.store.list(join_uri(OUTPUT, "records/"))]
        record = Record.model_validate_json(self.store.get(self.random.choice(records)))
        assert record.sources.image
        self.forgotten.append(record.sources.image.uri)
        forgetting = Forget(self.store, self.store, OUTPUT, record.sources.image.uri)
        deletion = forgetting.look()
        forgetting.write_tombstones(deletion, by="chaos")
        forgetting.delete(deletion)
        return True

    # ------------------------------------------------------------ reading

    def _read_everything(self) -> None:
        outcome = self.outcome
        named: set[str] = set()
        for each in self.store.list(join_uri(OUTPUT, "records/")):
            record = Record.model_validate_json(self.store.get(each.uri))
            picture = self.store.get(record.output.uri)
            if hashlib.sha256(picture).hexdigest() != record.output.sha256:
                outcome.wrong.append(record.output.uri)
            if record.sources.image and record.sources.image.uri in self.forgotten:
                outcome.wrong.append(each.uri)
            named.add(record.output.uri)
            outcome.records += 1
        outcome.pictures = len(named)
        outcome.orphans = sum(1 for _ in orphans(self.store, OUTPUT, datetime.now(UTC)))
        line = re.search(r"(\d+) forgotten", outcome.last_line)
        outcome.forgotten = int(line[1]) if line else 0
        computed = (self.folder / "computed").read_text().split()
        outcome.computed = len(computed)
        outcome.repeated = len(computed) - len(set(computed))


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name, default in vars(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="ace-chaos-") as folder:
        outcome = Harness(plan, Path(folder)).run()
    print(
        f"seed {plan.seed}: {outcome.records} records, {outcome.pictures} pictures, "
        f"{len(outcome.wrong)} wrong, {outcome.orphans} orphans, {outcome.forgotten} forgotten; "
        f"{outcome.repeated} computed again (bound {plan.bound}); "
        f"broke {dict(outcome.done)} in {outcome.runs} runs, {outcome.seconds:.0f} s; "
        f"last: {outcome.last_line}"
    )
    return 0 if outcome.is_good(plan) else 1


if __name__ == "__main__":
    raise SystemExit(main())
