"""Whole runs on weights that are not what they were. If these break, a catalog is edited with
spoilt weights, or with others than its records say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ace_tasks.errors import WeightsError
from ace_tasks.model.sources import identify, open_variant
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import ReplicaSettings, WeightsSettings
from ace_tasks.store import Store, join_uri
from flows.edit_catalog import edit_catalog
from tests.support.releases import BFL_TRANSFORMER, make_release, pin

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make_release(tmp_path / "tiny", "toy", "bfl")


@pytest.fixture
def catalog(store: Store, prefix: str, picture: Make) -> str:
    image = join_uri(prefix, "in/a.png")
    store.put(image, picture(), "image/png")
    rows = [{"id": f"row-{n}", "task": "edit", "image": image, "prompt": f"p{n}"} for n in range(3)]
    store.put(f"{prefix}/c.jsonl", "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    return f"{prefix}/c.jsonl"


def run(catalog: str, variant: str, output: str) -> Any:
    return edit_catalog(
        catalog=catalog, output=output, variant=variant, run={"replicas": 2}, return_state=True
    )


def published(store: Store, output: str) -> int:
    return sum(len(list(store.list(f"{output}/{kind}/"))) for kind in ("images", "records"))


def spoil(path: Path) -> None:
    """One bit of one weight: as a disk or a wire does it, and as no reader would notice."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_run_on_spoilt_weights_stops_at_once_with_the_file(
    store: Store, prefix: str, catalog: str, release: Path
) -> None:
    state = run(catalog, str(release), f"{prefix}/good")
    assert state.is_completed(), state.message
    assert published(store, f"{prefix}/good") == 6

    spoil(release / BFL_TRANSFORMER)
    state = run(catalog, str(release), f"{prefix}/bad")
    assert state.is_failed()
    message = f"WeightsError: {release / BFL_TRANSFORMER}: altered; expected SHA-256"
    assert state.message.count(message) == 1
    assert "\n" not in state.message.strip()
    assert published(store, f"{prefix}/bad") == 0
    # Before the replicas looked, the plan was made: the list of hashes was still the old one.
    assert list(store.list(f"{prefix}/bad/runs/"))


def test_a_run_on_weights_that_are_spoilt_in_the_store_stops_at_once(
    store: Store, prefix: str, catalog: str, release: Path, weights_dir: Path
) -> None:
    """No node keeps what came other than listed; so the next run, with the file mended, is good."""
    home = f"{prefix}/weights/tiny"
    for path in release.rglob("*.*"):
        store.upload(path, f"{home}/{path.relative_to(release).as_posix()}", "text/plain")
    right = (release / BFL_TRANSFORMER).read_bytes()
    store.put(f"{home}/{BFL_TRANSFORMER}", right[:-1] + b"\0", "text/plain")
    state = run(catalog, home, f"{prefix}/out")
    assert state.is_failed()
    assert f"WeightsError: {BFL_TRANSFORMER}: fetched with SHA-256 " in state.message
    assert published(store, f"{prefix}/out") == 0
    assert not [each for each in weights_dir.glob("tiny-toy-*") if each.name.count(".") == 0]

    store.put(f"{home}/{BFL_TRANSFORMER}", right, "text/plain")
    state = run(catalog, home, f"{prefix}/out")
    assert state.is_completed(), state.message
    assert published(store, f"{prefix}/out") == 6


def test_a_replica_refuses_other_weights_than_the_plan_was_made_for(
    release: Path, tmp_path: Path
) -> None:
    """Good weights, correctly pinned, but exchanged while the run was under way."""
    weights = WeightsSettings(folder=tmp_path / "node")
    planned = identify(open_variant(str(release), weights), weights).fingerprint
    settings = ReplicaSettings(
        variant=str(release), weights=weights, planned_model=planned, output_uri="s3://tests/out"
    )
    Replica(settings, "run-1", "replica-0").start()
    state = load_file(release / BFL_TRANSFORMER)
    state["img_in.bias"] += 1
    save_file(state, release / BFL_TRANSFORMER)
    pin(release)
    with pytest.raises(WeightsError, match="other weights than the run was planned for"):
        Replica(settings, "run-1", "replica-0").start()
