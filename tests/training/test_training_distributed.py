"""A training on several Ray workers and on several machines. If these break, two workers learn
another thing than one, or a lost machine costs the hours before it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from ray.train.v2.api.exceptions import WorkerGroupError

from ace_tasks.engine.session import ray_session
from ace_tasks.errors import SettingsError, StoreError, TrainingFailed
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.training import latents
from ace_tasks.training.distributed import FitSettings, _kept, _reason, encode, fit
from ace_tasks.training.keeping import TrainingFiles, read_metrics
from ace_tasks.training.loop import saved_step
from ace_tasks.training.recipe import Recipe
from ace_tasks.training.stages import encode_chunk, train_denoiser, train_vae
from tests.support.patience import wait_until
from tests.support.tiny_training import tiny_recipe

RECIPE = tiny_recipe(steps=24)
pytestmark = pytest.mark.usefixtures("one_thread")
Metrics = list[dict[str, float]]


@pytest.fixture(scope="module")
def data(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a VAE and latents."""
    work = tmp_path_factory.mktemp("data")
    assert train_vae(RECIPE, work, [], lambda step, numbers: None)
    for number in latents.missing(work / "latents", RECIPE.data):
        encode_chunk(RECIPE, work, number)
    return work


def fresh(data: Path, work: Path) -> Path:
    """A machine that has made the latents, and nothing else."""
    for name in ("vae", "latents"):
        shutil.copytree(data / name, work / name)
    return work


def train_here(recipe: Recipe, kept: TrainingFiles, stop_at: int | None = None) -> Metrics:
    """In this process, by one worker."""
    settings = FitSettings(recipe=recipe, stage="denoise", work=kept.work, uri=kept.uri)
    path = kept.checkpoint("denoise")
    with _kept(settings, main=True) as on_log:
        train_denoiser(recipe, kept.work, on_log, lambda: saved_step(path) == stop_at)
    return read_metrics(kept.metrics("denoise"))


def weights(kept: TrainingFiles) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(kept.checkpoint("denoise"))["model"]
    return state


# ---------------------------------------------------------------- files here and there


@pytest.mark.thorough
def test_of_two_machines_checkpoints_the_further_one_counts(
    data: Path, tmp_path: Path, store: Store, prefix: str
) -> None:
    one = TrainingFiles(fresh(data, tmp_path / "one"), prefix)
    other = TrainingFiles(fresh(data, tmp_path / "other"), prefix)
    train_here(RECIPE, one, stop_at=4)
    assert other.steps_done("denoise") == 4
    train_here(RECIPE, other, stop_at=9)  # goes on from the one's
    assert [each["step"] for each in read_metrics(other.metrics("denoise"))] == [*range(1, 10)]
    assert one.steps_done("denoise") == 9
    train_here(RECIPE, one, stop_at=12)  # which has an older checkpoint of its own
    whole = TrainingFiles(fresh(data, tmp_path / "whole"))
    assert train_here(RECIPE, whole, stop_at=12) == read_metrics(one.metrics("denoise"))
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(one).items())


def test_a_checkpoint_half_way_to_the_store_is_not_there(
    data: Path, tmp_path: Path, store: Store, prefix: str
) -> None:
    """Its step is written after it; until then the one before counts."""
    kept = TrainingFiles(fresh(data, tmp_path / "one"), prefix)
    train_here(RECIPE, kept, stop_at=3)
    store.delete(join_uri(prefix, "denoiser.pt.step"))
    assert TrainingFiles(tmp_path / "other", prefix).steps_done("denoise") == 0


def test_the_vae_comes_whole_or_not_at_all(
    data: Path, tmp_path: Path, store: Store, prefix: str
) -> None:
    here = TrainingFiles(shutil.copytree(data, tmp_path / "here"), prefix)
    assert here.has_vae()
    there = TrainingFiles(tmp_path / "there", prefix)
    store.delete(join_uri(prefix, "vae/config.json"))  # as if it were still on its way
    assert not there.has_vae()
    assert here.has_vae()  # sends what is missing
    assert there.has_vae()
    for path in (data / "vae").iterdir():
        assert (there.work / "vae" / path.name).read_bytes() == path.read_bytes()


def test_metrics_after_a_step_back_are_of_what_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert read_metrics(path) == []
    lines = [{"step": s, "loss": loss} for s, loss in ((1, 9), (2, 8), (3, 7), (4, 6), (3, 5))]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4, "lo')
    assert read_metrics(path) == [lines[0], lines[1], lines[4]]


def test_the_vae_has_one_worker() -> None:
    with pytest.raises(ValueError, match="one worker"):
        FitSettings(recipe=RECIPE, stage="vae", work=Path("w"), workers=2)


# ---------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_session(cpus=2):
        yield


@pytest.mark.thorough
def test_two_workers_go_on_where_one_was_and_learn_what_one_would(
    data: Path, tmp_path: Path, prefix: str, store: Store, cluster: None
) -> None:
    """On a fresh machine, from the store's checkpoint; compared with one that was never cut."""
    whole = TrainingFiles(fresh(data, tmp_path / "whole"))
    expected = train_here(RECIPE, whole)
    train_here(RECIPE, TrainingFiles(fresh(data, tmp_path / "cut"), prefix), stop_at=6)
    kept = TrainingFiles(fresh(data, tmp_path / "two"), prefix)
    assert fit(FitSettings(recipe=RECIPE, stage="denoise", work=kept.work, uri=prefix, workers=2))
    found = read_metrics(kept.metrics("denoise"))
    assert [each["step"] for each in found] == [each["step"] for each in expected]
    assert found[:6] == expected[:6]
    # The gradient is the whole batch's, but for bfloat16; the loss told is the first worker's.
    for measured, alone in zip(found, expected, strict=True):
        assert measured["grad_norm"] == pytest.approx(alone["grad_norm"], rel=0.02)
    moved = weights(whole)
    start = torch.load(tmp_path / "cut" / "denoiser.pt")["model"]
    apart = sum((value - moved[key]).square().sum() for key, value in weights(kept).items())
    way = sum((value - moved[key]).square().sum() for key, value in start.items())
    assert apart < 0.02 * way
    assert TrainingFiles(tmp_path / "other", prefix).steps_done("denoise") == RECIPE.loop.steps
    assert not (kept.work / "ray").exists()


@pytest.mark.thorough
def test_a_killed_worker_costs_the_steps_since_its_checkpoint(
    data: Path, tmp_path: Path, cluster: None
) -> None:
    loop = RECIPE.loop.model_copy(update={"steps": 80})
    recipe = RECIPE.model_copy(update={"loop": loop})
    kept = TrainingFiles(fresh(data, tmp_path / "killed"))
    raw = kept.metrics("denoise")
    killer = _KillAWorker(raw, at_line=10)
    with killer:
        assert fit(FitSettings(recipe=recipe, stage="denoise", work=kept.work))
    assert killer.killed
    steps = [json.loads(line)["step"] for line in raw.read_text().splitlines()]
    assert len(steps) - len(set(steps)) <= 1  # it was written after each step
    whole = TrainingFiles(fresh(data, tmp_path / "whole"))
    assert train_here(recipe, whole) == read_metrics(raw)
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(kept).items())


class _KillAWorker:
    """SIGKILL for the training worker below us, as soon as it has logged so many steps."""

    def __init__(self, metrics: Path, at_line: int):
        self._metrics, self._at_line = metrics, at_line
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.killed = False

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(1)

    def _watch(self) -> None:
        wait_until(self._is_due, "a training worker's steps", every_s=0.005)
        for each in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(each.cmdline()):
                each.kill()
                self.killed = True

    def _is_due(self) -> bool:
        return self._metrics.exists() and self._metrics.read_text().count("\n") >= self._at_line


@pytest.mark.thorough
def test_latents_are_made_on_every_core_and_missing_ones_only(
    data: Path, tmp_path: Path, cluster: None
) -> None:
    shutil.copytree(data / "vae", tmp_path / "vae")
    shutil.copytree(data / "latents", tmp_path / "latents")
    gone = latents.chunk_path(tmp_path / "latents", 1)
    gone.unlink()
    stays = latents.chunk_path(tmp_path / "latents", 0).stat().st_mtime_ns
    assert not encode(RECIPE, tmp_path, lambda: True)
    assert encode(RECIPE, tmp_path)
    assert gone.read_bytes() == latents.chunk_path(data / "latents", 1).read_bytes()
    assert latents.chunk_path(tmp_path / "latents", 0).stat().st_mtime_ns == stays


@pytest.mark.thorough
def test_what_a_worker_meets_is_raised_as_an_error_of_ours(tmp_path: Path, cluster: None) -> None:
    settings = FitSettings(
        recipe=RECIPE,
        stage="denoise",
        work=tmp_path,
        uri="s3://no-such-bucket/a",
        store=StoreSettings(patience_s=0),
        max_failures=0,
    )
    with pytest.raises(StoreError, match="no-such-bucket"):
        fit(settings)


def test_what_nobody_foresaw_is_reported_by_its_last_line() -> None:
    met = ValueError("Traceback: …\nValueError: the disk is full")
    reason = _reason(WorkerGroupError("long", {1: met}))
    assert isinstance(reason, TrainingFailed)
    assert str(reason) == "a worker failed: ValueError: the disk is full"
    ours = RuntimeError("outer")
    ours.__cause__ = SettingsError("no such recipe")
    assert _reason(WorkerGroupError("long", {0: ours})) is ours.__cause__
