"""The real parts tests run on: SeaweedFS, a Prefect server, Ray; each started once, on free ports.

Once for each worker of pytest-xdist: no two of them share a service or a folder.
"""

from __future__ import annotations

import atexit
import functools
import io
import os
import signal
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import hypothesis
import numpy as np
import pytest
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings

from ace_tasks.catalog.files import Row, to_specs
from ace_tasks.engine.session import ray_session
from ace_tasks.model.variants import find_variant
from ace_tasks.plan.identify import Identities
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import DEFAULT_PIXELS, PixelSettings, WorkItem, work_item
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from infra.prefect_server import PrefectServer
from tests.support import kept_logs, patience
from tests.support.prefect_tables import with_tables

# Before torch is imported, here and in every child process. Such small numbers are added up no
# faster by two threads, workers get in each other's way, and the number decides the last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ACE_TORCH_THREADS", "1")

# Some machines set it. Every child process would compile torch, Ray and Prefect anew: eight seconds
# of a core.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts what runs in its background deaf to Ctrl-C, and children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

patience.measure_slowness()
# Each session of botocore parses the description of S3 anew: a tenth of a second for each store.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)
# pytest-timeout's: it ends a test that hangs, with a trace of every thread.
os.environ.setdefault("PYTEST_TIMEOUT", str(patience.limit_s(900)))

# The same examples each time, so that what passed here passes there; `--hypothesis-profile=full`
# looks further, and anew each time.
hypothesis.settings.register_profile(
    "quick", max_examples=25, derandomize=True, database=None, deadline=None
)
hypothesis.settings.register_profile("full", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("quick")

BUCKET = "tests"
BUCKETS = (BUCKET, "no-such-bucket")  # what the test catalogs may name


# ------------------------------------------------------------ how tests are shared out and told


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Refuse to make a test's name of a value that is no plain word: it has to be given one."""
    plain = val is None or isinstance(val, (bool, int, float)) or hasattr(val, "__name__")
    if isinstance(val, str):
        plain = val.isascii() and val.isprintable() and len(val) <= 80
    if plain:
        return None
    raise pytest.UsageError(
        f"{argname}={val!r:.100}: give the case a name, pytest.param(…, id='…') or ids=…"
    )


# Their tests run flows in the worker's own process. Two workers take them all, half each, so that
# only two Prefect servers and two Rays are started for them.
_FLOW_TESTS = {
    "flows of catalogs": (
        "tests/flows/test_cli.py",
        "tests/flows/test_compare.py",
        "tests/flows/test_contact_sheet.py",
        "tests/flows/test_edit_catalog.py",
        "tests/flows/test_forms.py",
        "tests/flows/test_live.py",
        "tests/flows/test_restyle_catalog.py",
        "tests/flows/test_review_run.py",
        "tests/flows/test_try_on_batch.py",
        "tests/flows/test_write_feed.py",
        "tests/infra/test_deploy.py",
    ),
    "flows of runs": (
        "tests/engine/test_pool.py",
        "tests/evaluation/test_evaluate.py",
        "tests/provenance/test_signing.py",
        "tests/runs/test_audit.py",
        "tests/runs/test_retention.py",
        "tests/scenarios/test_bad_items.py",
        "tests/scenarios/test_bad_weights.py",
        "tests/scenarios/test_budget.py",
        "tests/training/test_train_ace.py",
    ),
}
_FLOW_GROUPS = {file: group for group, files in _FLOW_TESTS.items() for file in files}
_LONGEST = {
    "tests/engine/test_engine.py",
    "tests/scenarios/test_cluster.py",
    "tests/scenarios/test_survival.py",
    "tests/scenarios/test_ui_approval.py",
    "tests/training/test_training_distributed.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first: what comes last has all workers wait for it."""
    thorough = {each.path for each in items if each.get_closest_marker("thorough")}

    def rank(each: pytest.Item) -> tuple[bool, bool, bool]:
        file = _file(each.nodeid)
        return file not in _FLOW_GROUPS, file not in _LONGEST, each.path not in thorough

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)  # without xdist there are no workers
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to workers, and with `--dist=loadgroup` the flow tests to two of them."""
    from xdist.scheduler import LoadFileScheduling

    class LoadFlows(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = _file(nodeid)
            return _FLOW_GROUPS.get(file, file)

    return LoadFlows(config, log) if config.getvalue("dist") == "loadgroup" else None


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _worker(config: pytest.Config) -> str:
    return getattr(config, "workerinput", {}).get("workerid", "main")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        kept_logs.forget()


_folder = pytest.StashKey[Path]()


@pytest.fixture(scope="session", autouse=True)
def _logs_are_kept(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """In `out/tests/`, whatever services and child processes wrote."""
    folder = request.config.stash[_folder] = tmp_path_factory.getbasetemp()
    yield
    kept_logs.keep(folder, _worker(request.config))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows the end of every log that grew meanwhile."""
    report = yield
    folder = item.config.stash.get(_folder, None)
    if report.failed and folder:
        worker = _worker(item.config)
        kept_logs.keep(folder, worker)
        report.sections += kept_logs.tails(folder, worker, since=call.start)
    return report


# ------------------------------------------------------------ services


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running SeaweedFS; its address and keys are in the environment."""
    service = ObjectStore(tmp_path_factory.mktemp("object-store")).start()
    os.environ.update(service.env)
    Store(StoreSettings()).create_bucket(BUCKET)
    yield service
    service.stop()


@pytest.fixture
def store(object_store: ObjectStore) -> Store:
    return Store(StoreSettings())


@pytest.fixture
def prefix(store: Store) -> str:
    """An empty place in the store, one a test."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A running Prefect server; its address is in the environment."""
    service = PrefectServer(with_tables(tmp_path_factory.mktemp("prefect"))).start()
    # Prefect sends its last logs at exit, and waits a minute for a server that is gone.
    atexit.register(service.stop)
    os.environ.update(service.env)  # for child processes; this one has read its settings
    with temporary_settings({PREFECT_API_URL: service.env["PREFECT_API_URL"]}):
        yield service


@pytest.fixture(scope="session")
def ray_here(object_store: ObjectStore, prefect_server: PrefectServer) -> Iterator[None]:
    """Ray on this machine, one for all files of a worker; its processes know store and server."""
    with ray_session(cpus=4):
        yield


@pytest.fixture
def replicas_here(
    object_store: ObjectStore,
    prefect_server: PrefectServer,
    weights_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flows edit in this process, by a real replica and without Ray."""
    from tests.support import pool_here

    pool_here.use(monkeypatch)


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy variants are built, once a session; in the environment, too."""
    folder = tmp_path_factory.mktemp("weights")
    os.environ["ACE_WEIGHTS_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small trainings: two threads only get in each other's way over such small numbers, and
    how many there are decides a sum's last bit.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Make a file of noise: picture(width, height, seed, kind, mode)."""

    def make(
        width: int = 96, height: int = 64, seed: int = 0, kind: str = "PNG", mode: str = "RGB"
    ) -> bytes:
        shape = (height, width, 4)
        noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise, "RGBA").convert(mode).save(out, format=kind)
        return out.getvalue()

    return make


@pytest.fixture
def planned(store: Store, prefix: str, picture: Callable[..., bytes]) -> Callable[..., WorkItem]:
    """Upload a picture, a mask and a reference; plan one row over them."""
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:70] = 255
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    for name, data in {
        "image": picture(),
        "mask": out.getvalue(),
        "ref": picture(64, 64, 5),
    }.items():
        store.put(join_uri(prefix, f"in/{name}.png"), data, "image/png")

    def plan(variant: str = "toy", pixels: PixelSettings = DEFAULT_PIXELS, **row: Any) -> WorkItem:
        row = {"id": "row-1", "prompt": "a red mug", "steps": 2} | row
        row = {k: f"{prefix}/{v}" if str(v).startswith("in/") else v for k, v in row.items()}
        ((line, spec, _),) = to_specs([Row(1, row)], f"{prefix}/c.jsonl", BUCKETS)  # type: ignore[misc]
        sources = Identities(store).sources(spec)
        return work_item(line, spec, sources, find_variant(variant).identity(), pixels)

    return plan
