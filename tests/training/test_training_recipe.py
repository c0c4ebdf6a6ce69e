"""A recipe from nothing to a variant. If these break, hours of training that were cut off are lost
or become another model, or what was trained cannot be loaded, or nobody can say what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ace_tasks import __version__
from ace_tasks.errors import SettingsError
from ace_tasks.model import places, sources, weights
from ace_tasks.model.ace import AceModel
from ace_tasks.replica import verify
from ace_tasks.settings import WeightsSettings
from ace_tasks.training import latents, recipe
from ace_tasks.training.export import export
from ace_tasks.training.loop import saved_step
from ace_tasks.training.preview import preview
from ace_tasks.training.recipe import Recipe, check
from ace_tasks.training.stages import Until, encode_chunk, train_denoiser, train_vae
from ace_tasks.training.world.world_tasks import ALL_TASKS, draw_example
from infra.services import ROOT
from tests.support.processes import run_python
from tests.support.tiny_training import quiet, tiny_recipe, write_recipe

# The number of threads decides a sum's last bit.
pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = tiny_recipe()
PHOTOS = [np.full((40, 50, 3), 90, np.uint8)]


def stopping_at(path: Path, step: int) -> Until:
    """Tells a stage to stop when its checkpoint, written after every step, is so far."""
    return lambda: saved_step(path) >= step


def train(work: Path, cut: bool = False) -> Path:
    """Run all stages, each interrupted in its middle if `cut`; return the variant's folder."""
    if cut:
        until = stopping_at(work / "vae.pt", 3)
        assert not train_vae(RECIPE, work, PHOTOS, quiet, until)
        assert not (work / "vae").exists()
    assert train_vae(RECIPE, work, PHOTOS, quiet)
    for number in latents.missing(work / "latents", RECIPE.data)[: 1 if cut else None]:
        encode_chunk(RECIPE, work, number)
    for number in latents.missing(work / "latents", RECIPE.data):
        encode_chunk(RECIPE, work, number)
    if cut:
        for step in (4, 7):  # in either stage of the paper
            until = stopping_at(work / "denoiser.pt", step)
            assert not train_denoiser(RECIPE, work, quiet, until)
            assert saved_step(work / "denoiser.pt") == step
    assert train_denoiser(RECIPE, work, quiet)
    export(RECIPE, work, work / "variant")
    return work / "variant"


@pytest.fixture(scope="module")
def work(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    train(folder)
    return folder


def test_cut_in_every_stage_it_makes_the_same_variant_to_the_bit(
    work: Path, tmp_path: Path
) -> None:
    cut = train(tmp_path, cut=True)
    assert places.hash_folder(cut) == places.hash_folder(work / "variant")


@pytest.mark.thorough
def test_another_process_makes_the_same_chunk(work: Path, tmp_path: Path) -> None:
    """The number of threads it was given must not matter."""
    shutil.copytree(work / "vae", tmp_path / "vae")
    path = write_recipe(tmp_path / "tiny.json", RECIPE)
    code = (
        "import sys, pathlib, torch; from ace_tasks.training.recipe import Recipe;"
        "from ace_tasks.training.stages import encode_chunk;"
        "torch.set_num_threads(2);"
        f"encode_chunk(Recipe.read({str(path)!r}), pathlib.Path({str(tmp_path)!r}), 1);"
        "assert torch.get_num_threads() == 2"
    )
    run_python("-c", code)
    one, other = (latents.chunk_path(each / "latents", 1).read_bytes() for each in (work, tmp_path))
    assert one == other


def test_the_variant_loads_and_answers_every_task(work: Path, weights_dir: Path) -> None:
    settings = WeightsSettings(folder=weights_dir)
    variant = sources.open_variant(str(work / "variant"), settings)
    model = AceModel.load(variant, settings, "cpu")
    for name in ALL_TASKS:
        example = draw_example(5, 0, 64, split="test", tasks=(name,))
        answer = preview(model, example)
        assert answer.shape == example.target.shape
        assert answer.dtype == np.uint8
        assert np.array_equal(answer, preview(model, example))
    assert not np.array_equal(preview(model, example), preview(model, example, seed=1))


def test_it_passes_what_every_set_of_weights_must(
    work: Path, weights_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify.verify(str(work / "variant"), WeightsSettings(folder=weights_dir), "cpu")
    printed = capsys.readouterr().out
    assert "hashes as listed" in printed
    assert "one step    no adapter on cpu" in printed


def test_it_says_what_it_was_made_from_and_nothing_of_the_machine(work: Path) -> None:
    folder = work / "variant"
    story = json.loads((folder / "training.json").read_text())
    assert Recipe.model_validate(story["recipe"]) == RECIPE
    assert story["recipe_fingerprint"] == RECIPE.fingerprint
    assert (story["steps_done"], story["code_version"]) == (RECIPE.loop.steps, __version__)
    assert len(story["photos_sha256"]) == len(PHOTOS)
    settings = WeightsSettings(folder=work)
    identity = sources.identify(sources.open_variant(str(folder), settings), settings)
    assert (story["base"], story["encoders"]) == (identity.base, identity.encoders)
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(work).encode() not in path.read_bytes(), path
            assert str(ROOT).encode() not in path.read_bytes(), path


def test_what_is_shipped_is_the_average_in_half_precision(work: Path) -> None:
    averaged = torch.load(work / "denoiser.pt", weights_only=True)["averaged"]
    parts = weights.load(
        sources.open_variant(str(work / "variant"), WeightsSettings(folder=work)),
        work / "variant",
        "cpu",
    )
    for key, value in parts.transformer.state_dict().items():
        assert torch.equal(value, averaged[f"module.transformer.{key}"].bfloat16().float())
    assert parts.vae.dtype == torch.float32
    size = sum(path.stat().st_size for path in (work / "variant").rglob("*.safetensors"))
    count = sum(
        p.numel()
        for part in (parts.transformer, parts.clip, parts.t5, parts.vae)
        for p in part.parameters()
    )
    assert size < 2.4 * count


def test_nothing_is_exported_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing is trained yet"):
        export(RECIPE, tmp_path, tmp_path / "variant")


# ---------------------------------------------------------------- recipes


def test_a_fingerprint_is_of_what_decides_the_weights() -> None:
    changes = {"name": "other", "summary": "Other.", "sampling_steps": 3}
    assert tiny_recipe(**changes).fingerprint == RECIPE.fingerprint
    often = RECIPE.loop.model_copy(update={"checkpoint_every_s": 9, "log_every_steps": 9})
    assert RECIPE.model_copy(update={"loop": often}).fingerprint == RECIPE.fingerprint
    assert tiny_recipe(steps=11).fingerprint != RECIPE.fingerprint
    seed = RECIPE.data.model_copy(update={"seed": 8})
    assert RECIPE.model_copy(update={"data": seed}).fingerprint != RECIPE.fingerprint


def test_the_committed_recipes_can_be_made() -> None:
    names = [path.stem for path in Path(recipe.__file__).parent.glob("*.json")]
    assert "mini" in names
    for name in names:
        assert Recipe.read(name).name == name
        check(Recipe.read(name), workers=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "A B", "summary": ""}', "name: String should match"),
        ('{"name": "a", "summary": "", "steps": 3}', "steps: Extra inputs"),
        ('{"name": "a", "summary": "", "data": {"sizes_px": [60]}}', r"sizes_px.0: .*multiple of"),
        ("{", "Invalid JSON"),
    ],
    ids=["name", "unknown field", "size", "no JSON"],
)
def test_a_wrong_recipe_says_where(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SettingsError, match=message):
        Recipe.read(str(tmp_path / "a.json"))


def test_a_recipe_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"accepted: .*mini"):
        Recipe.read("grand")


@pytest.mark.parametrize(
    ("small", "workers", "message"),
    [
        ({"rope_axes": (4, 6, 8)}, 1, "makes no model"),
        ({"channels": 384}, 1, "448"),
        ({}, 3, "workers: accepted: a divisor of the batch of 4; given 3"),
    ],
    ids=["axes", "channels", "workers"],
)
def test_what_makes_no_model_is_known_at_once(
    small: dict[str, object], workers: int, message: str
) -> None:
    settings = RECIPE.small.model_copy(update=small)
    with pytest.raises(SettingsError, match=message):
        check(RECIPE.model_copy(update={"small": settings}), workers)
