"""The training flow on a real Prefect server, real Ray and a real store. If these break, a night of
training ends with nothing to load, or a cancelled one goes on and holds the machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from ace_tasks.model.ace import AceModel
from ace_tasks.model.places import MANIFEST
from ace_tasks.model.sources import open_variant
from ace_tasks.settings import StoreSettings, WeightsSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.training.keeping import TrainingFiles, send_folder
from ace_tasks.training.recipe import Recipe
from flows.train_ace import train_ace
from infra.services import ROOT
from tests.support.grouped import grouped
from tests.support.patience import limit_s, wait_until
from tests.support.releases import make_release
from tests.support.tiny_training import go_on_from, tiny_recipe, write_recipe

# Each is written down and uploaded, so they are far from done when the first are.
STEPS = 300


@pytest.fixture
def recipe() -> Recipe:
    return tiny_recipe(steps=STEPS)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's own folder of weights."""
    monkeypatch.setenv("ACE_WEIGHTS_DIR", str(tmp_path / "machine"))
    return tmp_path / "machine"


@pytest.fixture
def server(prefect_server: Any, object_store: Any) -> None:
    """What every flow needs."""


class Command:
    """`ace-catalog train` in a process group of its own."""

    def __init__(self, path: Path, output: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "train", str(path), output, "--threads", "1"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for_step(self, kept: TrainingFiles, step: int) -> None:
        """Until the store has a checkpoint so far."""

        def is_there() -> bool:
            assert self.process.poll() is None, self.process.communicate()[0]
            return kept.steps_done("denoise") >= step

        wait_until(is_there, f"a checkpoint of step {step}")

    def family(self) -> list[psutil.Process]:
        mine = []
        for each in psutil.process_iter():
            try:
                if os.getsid(each.pid) == self.process.pid:
                    mine.append(each)
            except ProcessLookupError:
                continue
        return mine


def run(path: Path, output: str, **parameters: Any) -> Any:
    given = grouped(train_ace, recipe=str(path), output=output, threads=1, **parameters)
    return train_ace(**given, return_state=True)


def artifacts(run_id: UUID) -> dict[str, Any]:
    async def read() -> dict[str, Any]:
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
            )
        return {str(each.key): each for each in found}

    return asyncio.run(read())


@pytest.mark.thorough
def test_stopped_cancelled_killed_it_goes_on_and_gives_a_variant(
    recipe: Recipe,
    machine: Path,
    server: None,
    store: Store,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_recipe(tmp_path / "tiny.json", recipe)
    mark = recipe.fingerprint[:12]
    there = join_uri(prefix, f"tiny/training-{mark}")
    state = run(path, prefix, stop_after_minutes=0.05)
    assert (state.name, state.is_completed()) == ("NotDoneYet", True)
    assert "not done yet" in state.message
    assert "start the same run again to continue" in state.message

    kept = TrainingFiles(machine / "training" / f"tiny-{mark}", there)
    stopped_at = kept.steps_done("denoise")
    command = Command(path, prefix)
    command.wait_for_step(kept, stopped_at + 10)
    family = command.family()
    assert len(family) > 4  # the flow, Ray's servers, the worker
    os.killpg(command.process.pid, signal.SIGTERM)  # as a process worker does
    command.process.wait(limit_s())
    _, alive = psutil.wait_procs(family, timeout=limit_s())
    assert [each.cmdline() for each in alive] == []
    cancelled_at = kept.steps_done("denoise")
    assert stopped_at + 10 <= cancelled_at < STEPS

    command = Command(path, prefix)
    command.wait_for_step(kept, cancelled_at + 10)
    command.process.kill()
    command.process.wait()
    killed_at = kept.steps_done("denoise")
    assert killed_at < STEPS

    state = run(path, prefix)
    assert state.name == "Completed", state.message
    check_variant(prefix, recipe, tmp_path)
    check_artifacts(state, store, there)
    lines = kept.metrics("denoise").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert set(steps) == {*range(1, STEPS + 1)}
    # Nothing was done again but what came after a last checkpoint.
    assert len(steps) - STEPS <= 3

    monkeypatch.setenv("ACE_WEIGHTS_DIR", str(tmp_path / "another"))
    check_another_machine(path, prefix, store, tmp_path / "another")


def check_variant(prefix: str, recipe: Recipe, tmp_path: Path) -> None:
    """What `variant=s3://…` of the other flows does."""
    settings = WeightsSettings(folder=tmp_path / "elsewhere", store=StoreSettings())
    variant = open_variant(join_uri(prefix, "tiny"), settings)
    assert (variant.name, variant.steps) == ("tiny", recipe.sampling_steps)
    model = AceModel.load(variant, settings, "cpu")
    assert model.parts.transformer.config.in_channels == 448


def check_artifacts(state: Any, store: Store, uri: str) -> None:
    found = artifacts(state.state_details.flow_run_id)
    keys = {
        f"train-ace-{key}"
        for key in ("denoise-progress", "denoise-steps", "denoise-curve", "samples")
    }
    assert found.keys() == keys  # VAE and latents were there
    assert found["train-ace-denoise-progress"].data == 100.0
    table = json.loads(found["train-ace-denoise-steps"].data)
    assert table[0]["step"] == STEPS
    assert {"loss", "target", "lr", "grad_norm"} <= table[0].keys()
    for key, name in (("denoise-curve", "curves-denoise.png"), ("samples", "samples.png")):
        assert f"{name}?" in found[f"train-ace-{key}"].data  # presigned
        assert store.get(join_uri(uri, name)).startswith(b"\x89PNG")


def check_another_machine(path: Path, prefix: str, store: Store, folder: Path) -> None:
    """It exports what is trained: no latents are made, and the variant is the same to the bit."""
    place = join_uri(prefix, "tiny/")

    def written() -> dict[str, Any]:
        return {e.uri: e.modified for e in store.list(place) if "/training-" not in e.uri}

    before = written()
    assert join_uri(place, MANIFEST) in before
    state = run(path, prefix)
    assert state.name == "Completed", state.message
    assert written() == before  # nobody saw it away
    assert (folder / "training").exists()
    assert not list(folder.rglob("chunk-*"))


@pytest.mark.thorough
def test_a_lora_from_a_variant_and_a_catalog_in_the_store(
    machine: Path,
    server: None,
    store: Store,
    prefix: str,
    tmp_path: Path,
    picture: Callable[..., bytes],
) -> None:
    """Its rows with nothing to learn from are told; the others make an adapter that edits."""
    base = make_release(tmp_path / "base", "toy-lora")
    send_folder(store, base, join_uri(prefix, "base"), MANIFEST)
    for name, seed in (("image", 1), ("target", 2)):
        store.put(join_uri(prefix, f"in/{name}.png"), picture(64, 64, seed), "image/png")
    rows = [
        {
            "id": f"row-{n}",
            "task": "edit",
            "image": f"{prefix}/in/{image}.png",
            "target": f"{prefix}/in/target.png",
            "prompt": f"mug {n}",
        }
        for n, image in enumerate(("image", "gone", "target"))
    ]
    catalog = join_uri(prefix, "pairs.jsonl")
    text = "".join(json.dumps(each) + "\n" for each in [*rows, {"id": "row-3", "task": "paint"}])
    store.put(catalog, text.encode(), "application/x-ndjson")
    recipe = go_on_from("toy", lora={"name": "shop", "rank": 2}, name="shop")
    path = write_recipe(tmp_path / "shop.json", recipe)
    state = run(path, prefix, start_from=join_uri(prefix, "base"), catalog=catalog, workers=2)
    assert state.name == "Completed", state.message
    rejects = [json.loads(line) for line in store.get(state.result()["rejects"]).splitlines()]
    assert [(each["line"], each["field"]) for each in rejects] == [(2, "image"), (4, "target")]
    settings = WeightsSettings(folder=tmp_path / "elsewhere", store=StoreSettings())
    variant = open_variant(state.result()["variant"], settings)
    assert variant.adapters == {"portrait": 8, "subject": 4, "local_editing": 4, "shop": 2}
    model = AceModel.load(variant, settings, "cpu")
    model.adapters.select("shop")
    story = json.loads(store.get(join_uri(prefix, "shop/training.json")))
    assert story["catalog"]["rows"] == 3
    assert story["started_from"]["variant"] == "tiny-toy-lora"
    assert story["recipe"]["start_from"] == join_uri(prefix, "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "grand"}, "accepted: .*mini"),
        ({"output": "out"}, "output: accepted: s3://bucket/prefix"),
        ({"output": "s3://no-such-bucket/out"}, "no-such-bucket"),
        ({"photos": "no/such/folder"}, "photos: accepted: a folder"),
        ({"start_from": "grand"}, "accepted: .*toy-lora"),
        ({"start_from": "flux-fill-lora"}, "Non-Commercial License"),
        ({"catalog": "s3://tests/no-such.jsonl"}, "no such catalog"),
        ({"recipe": "flux-lora", "start_from": "toy-lora"}, "name it in"),
        ({"workers": 3}, "workers: accepted: a divisor of the batch of 4; given 3"),
    ],
    ids=["recipe", "output", "bucket", "photos", "start", "license", "catalog", "place", "workers"],
)
def test_what_cannot_run_says_why_at_once(
    machine: Path, server: None, prefix: str, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write_recipe(tmp_path / "tiny.json", tiny_recipe())
    parameters = {"recipe": str(path), "output": prefix} | change
    state = train_ace(**grouped(train_ace, **parameters), return_state=True)
    assert state.is_failed()
    with pytest.raises(Exception, match=message):
        state.result()
