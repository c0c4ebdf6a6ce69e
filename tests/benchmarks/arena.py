"""An arena for contenders: the services they share, and one process for each run of one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra.object_store import ObjectStore
from infra.prefect_server import PrefectServer
from infra.services import ROOT, Service
from tests.benchmarks.contenders import workload as workloads
from tests.benchmarks.contenders.workload import BUCKET, Workload
from tests.benchmarks.footprint import Footprint, Memory

# Before Ray is imported, here and in every process: everything on the loopback.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}


@dataclass(frozen=True)
class Contender:
    """A module of `contenders`, and what of a workload it changes."""

    title: str
    module: str
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass
class Run:
    """The work of one process of a contender."""

    workload: Workload
    started_at: float
    ended_at: float
    code: int
    pid: int
    samples: list[tuple[float, dict[int, Memory]]]  # time → by process
    log: Path

    @property
    def peak_bytes(self) -> int:
        """PSS of all of it."""
        return max((sum(m.pss for m in each.values()) for _, each in self.samples), default=0)

    @property
    def first_picture_s(self) -> float:
        return min((e.time_s for e in self.workload.entries("published")), default=float("nan")) - (
            self.started_at
        )

    @property
    def whole_s(self) -> float:
        return self.ended_at - self.started_at

    @property
    def items_s(self) -> float:
        """Pictures a second, from the first pass of the model to the last picture in the store."""
        entries = self.workload.entries()
        published = [entry.time_s for entry in entries if entry.event == "published"]
        begun = [entry.time_s for entry in entries if entry.event == "begun"]
        return len(published) / (published[-1] - begun[0]) if published else float("nan")


class Arena:
    """An object store and a Prefect server on this machine, and folders that go with them."""

    def __init__(self, folder: Path, env: dict[str, str], store: Store, server_pid: int):
        self.folder = folder
        self.store = store
        self.env = env
        self.server_pid = server_pid
        self._runs = 0

    def workload(
        self,
        name: str,
        *,
        items: int,
        side_px: int,
        variant: str,
        prompts: Literal["one", "distinct"] = "one",
        pictures: int | None = None,
        **more: Any,
    ) -> Workload:
        """Put a catalog and its pictures into the store. Variant `wide`: see `put_wide_variant`."""
        if variant == "wide":
            variant = workloads.put_wide_variant(self.folder / "wide")
        sources = workloads.put_pictures(self.store, side_px, pictures or items)
        catalog = workloads.put_catalog(self.store, name, workloads.rows(items, prompts, sources))
        return Workload(
            name=name,
            catalog=catalog,
            output="",
            variant=variant,
            scratch="",
            items=items,
            weights=str(self.folder / "weights"),
            **more,
        )

    def place(self, workload: Workload, contender: Contender) -> Workload:
        """The workload with an output and a folder of its own."""
        self._runs += 1
        scratch = self.folder / f"run-{self._runs}"
        scratch.mkdir()
        changes: dict[str, Any] = {
            "output": f"s3://{BUCKET}/out-{self._runs}",
            "scratch": str(scratch),
            **dict(contender.changes),
        }
        return replace(workload, **changes)

    def run(
        self,
        contender: Contender,
        placed: Workload,
        meanwhile: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
        limit_s: float = 900,
    ) -> Run:
        """One process of a contender, to its end. `meanwhile` may break it."""
        log = Path(placed.scratch) / "log"
        env = self.env | {
            "ACE_TORCH_THREADS": str(placed.threads),
            "OMP_NUM_THREADS": str(placed.threads),
            "ACE_BATCH_SIZE": str(placed.batch_size),
            "PREFECT_RESULTS_LOCAL_STORAGE_PATH": f"{placed.scratch}/results",
        }
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.contenders",
            contender.module,
            str(placed.write()),
        ]
        started_at = time.time()
        process = Service.start(contender.title, command, env, log).process
        with Footprint(process.pid) as footprint:
            try:
                meanwhile(process)
                code = process.wait(limit_s)
                ended_at = time.time()
            finally:
                process.kill()
        footprint.end_all()
        return Run(placed, started_at, ended_at, code, process.pid, footprint.samples, log)

    def pictures(self, placed: Workload) -> dict[str, str]:
        """Row id → SHA-256 of what its picture decodes to: ours says in its XMP where it came from.

        One that cannot be read is none.
        """
        found = {}
        for each in self.store.list(placed.output):
            path = PurePosixPath(each.uri)
            if path.suffix == ".jpg":
                row = path.stem if path.stem.startswith("row-") else path.parent.name
                with (
                    contextlib.suppress(OSError),
                    Image.open(io.BytesIO(self.store.get(each.uri))) as picture,
                ):
                    content = f"{picture.mode} {picture.size} ".encode() + picture.tobytes()
                    found[row] = hashlib.sha256(content).hexdigest()
        return found


@contextmanager
def open_arena() -> Iterator[Arena]:
    # Told to end, it ends as any block does: with its services and without its folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stop:
        folder = Path(stop.enter_context(tempfile.TemporaryDirectory(prefix="ace-bench-")))
        object_store = ObjectStore(folder / "store")
        server = PrefectServer(folder / "prefect")
        for service in (object_store, server):
            stop.callback(service.stop)
            service.launch()
        for service in (object_store, server):
            service.wait()
        ours = (
            object_store.env
            | server.env
            | _LOOPBACK
            | {
                "ACE_WEIGHTS_DIR": str(folder / "weights"),
                "ACE_DEVICE": "cpu",
                "PREFECT_LOGGING_LEVEL": "ERROR",
                "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_OFFLINE": "1",
            }
        )
        os.environ.update(ours)
        # Workers of Ray find the contenders by name.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        store = Store(StoreSettings())
        store.create_bucket(BUCKET)
        assert server.service
        yield Arena(folder, os.environ | {"PYTHONPATH": path}, store, server.service.process.pid)
