"""The real parts tests run on: SeaweedFS, a Prefect server, Ray; each started once, on free ports."""

from __future__ import annotations

import atexit
import io
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings

from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from infra.local_stack import ObjectStore, PrefectServer

BUCKET = "tests"


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
    service = PrefectServer(tmp_path_factory.mktemp("prefect")).start()
    # Prefect sends its last logs at exit, and waits a minute for a server that is gone.
    atexit.register(service.stop)
    os.environ.update(service.env)  # for child processes; this one has read its settings
    with temporary_settings({PREFECT_API_URL: service.env["PREFECT_API_URL"]}):
        yield service


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy variants are built, once a session; in the environment, too."""
    folder = tmp_path_factory.mktemp("weights")
    os.environ["ACE_WEIGHTS_DIR"] = str(folder)
    return folder


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
