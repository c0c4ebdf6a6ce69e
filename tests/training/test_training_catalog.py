"""Training data from a catalog. If these break, a night of training learns from the wrong pictures,
or ends over one broken file, or leaves out half of the rows and nobody is told."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ace_tasks.catalog.files import Reject, Row, to_examples, to_specs
from ace_tasks.errors import CatalogError, SettingsError, StoreUnavailable
from ace_tasks.images import controls
from ace_tasks.lcu.canvas import MASK_THRESHOLD, normalise
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from ace_tasks.training import latents, rows, stages
from ace_tasks.training.latents import Latents
from ace_tasks.training.objective import Batches, ObjectiveSettings
from ace_tasks.training.recipe import Recipe, check
from ace_tasks.training.stages import encode_chunk, train_denoiser, train_vae
from infra.services import free_ports
from tests.support.tiny_training import quiet, tiny_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
EDIT = {"task": "edit", "image": "image.png", "target": "target.png", "prompt": "a red mug"}
FILL = EDIT | {"task": "fill", "mask": "mask.png"}
TRY_ON = FILL | {"task": "try_on", "reference": "ref.png"}
REFERENCE = {"task": "reference", "reference": "ref.png", "target": "target.png", "prompt": "a mug"}


@pytest.fixture
def shop(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """A folder of pictures: 96 × 64, a mask of its middle, a reference, and a broken file."""
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 32:64] = 255
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    for name, data in {
        "image.png": picture(96, 64, 1),
        "target.png": picture(96, 64, 2),
        "mask.png": out.getvalue(),
        "ref.png": picture(48, 64, 3),
        "small.png": picture(32, 32, 4),
        "broken.png": b"no picture",
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def write(shop: Path, *cells: dict[str, Any]) -> Path:
    path = shop / "catalog.jsonl"
    numbered = ({"id": f"row-{n}"} | each for n, each in enumerate(cells))
    path.write_text("".join(json.dumps(each) + "\n" for each in numbered))
    return path


def plan(path: Path, work: Path) -> rows.PlannedCatalog:
    return rows.plan(path, str(path), None, work / "latents")


def recipe_of(path: Path, **data: Any) -> Recipe:
    settings = {"catalog": str(path), "max_seq_len": 24, "chunk": 4, "empty_prompts": 0} | data
    return tiny_recipe(data=settings, objective={"batch": 4, "stage_1_share": 0})


@pytest.fixture(scope="module")
def trained_vae(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("vae")
    assert train_vae(tiny_recipe(), work, [], quiet)
    return work / "vae"


def encode(recipe: Recipe, work: Path, trained_vae: Path) -> list[Latents]:
    if not (work / "vae").exists():
        (work / "vae").symlink_to(trained_vae)
    for number in latents.missing(work / "latents", recipe.data):
        encode_chunk(recipe, work, number)
    return latents.load(work / "latents", recipe.data)


# ---------------------------------------------------------------- rows


def test_an_edit_catalog_knows_no_target_and_a_training_needs_one() -> None:
    row = {"id": "a"} | EDIT
    (edited,) = to_specs([Row(1, row)], "catalog.jsonl", None)
    assert isinstance(edited, Reject)
    assert (edited.field, "unknown column" in edited.reason) == ("target", True)
    (line, spec, target, cells) = next(iter(to_examples([Row(1, row)], "catalog.jsonl", None)))  # type: ignore[misc]
    assert (line, spec.task, Path(target).name, cells) == (1, "edit", "target.png", row)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"target": None}, "target", "missing"),
        ({"target": 3}, "target", "accepted: a URI"),
        ({"target": "http://a/b.png"}, "target", "given scheme 'http'"),
        ({"target": "s3://elsewhere/b.png"}, "target", "accepted buckets: mine"),
        ({"image": "s3://elsewhere/b.png"}, "image", "accepted buckets: mine"),
        ({"goal": "b.png"}, "goal", "unknown column"),
        ({"task": "paint"}, "task", "accepted: fill, edit"),
        ({"prompt": None}, "prompt", "missing"),
        (
            {"reference": ["a.png", "b.png"]} | {"task": "try_on", "mask": "m.png"},
            "reference",
            "accepted in training: one picture",
        ),
    ],
    ids=[
        "no target",
        "target a number",
        "target of the web",
        "target of another bucket",
        "image of another bucket",
        "unknown column",
        "unknown task",
        "no prompt",
        "two references",
    ],
)
def test_a_row_that_is_no_request_is_reported_with_line_column_and_reason(
    shop: Path, change: dict[str, Any], field: str, reason: str
) -> None:
    path = write(shop, EDIT, EDIT | change)
    rows.plan(path, str(path), ("mine",), shop / "latents")
    (reject,) = rows.rejects(shop / "latents")
    assert (reject["line"], reject["field"]) == (2, field)
    assert reason in reject["reason"]
    assert reject["row"]["id"] == "row-1"


def test_an_id_stands_for_one_row(shop: Path) -> None:
    plan(write(shop, EDIT | {"id": "a"}, EDIT | {"id": "a"}), shop)
    (reject,) = rows.rejects(shop / "latents")
    assert (reject["line"], reject["field"]) == (2, "id")


def test_the_plan_counts_and_a_catalog_without_a_good_row_says_why(shop: Path) -> None:
    planned = plan(write(shop, EDIT, TRY_ON, {"task": "edit"}), shop)
    assert (planned.rows, planned.without_references, planned.rejected) == (2, 1, 1)
    assert recipe_of(shop).data.count(shop / "latents") == 2
    with pytest.raises(CatalogError, match=r"no row to learn from; line 1: target: missing"):
        plan(write(shop, {"task": "edit"}), shop)
    with pytest.raises(SettingsError, match="no catalog planned"):
        rows.planned(shop / "nowhere")


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"target": "gone.png"}, "target", "no such file"),
        ({"target": "broken.png"}, "target", "accepted: a JPEG, PNG"),
        ({"image": "gone.png"}, "image", "no such file"),
        ({"mask": "small.png"}, "mask", "its picture's size"),
        ({"mask": {"box": [0, 0, 200, 200]}}, "mask", "reaches outside"),
        ({"mask": "alpha"}, "mask", "alpha channel"),
        ({"reference": "broken.png"}, "reference", "accepted: a JPEG, PNG"),
    ],
    ids=[
        "no target",
        "broken target",
        "no image",
        "small mask",
        "box outside",
        "no alpha",
        "broken reference",
    ],
)
def test_pictures_that_are_of_no_use_are_left_out_and_reported(
    shop: Path, trained_vae: Path, change: dict[str, Any], field: str, reason: str
) -> None:
    path = write(shop, EDIT, TRY_ON | change, FILL)
    assert plan(path, shop).rejected == 0
    found = encode(recipe_of(path), shop, trained_vae)
    assert sum(map(len, found)) == 2
    (reject,) = rows.rejects(shop / "latents")
    assert (reject["line"], reject["field"]) == (2, field)
    assert reason in reject["reason"]


def test_a_store_that_is_away_is_no_rows_fault(
    shop: Path, trained_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, so the stage goes on where it was once the store is back."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    path = write(shop, EDIT, EDIT | {"target": "s3://shop/target.png"})
    plan(path, shop)
    (shop / "vae").symlink_to(trained_vae)
    away = StoreSettings(
        endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", patience_s=0, max_attempts=1
    )
    with pytest.raises(StoreUnavailable):
        encode_chunk(recipe_of(path), shop, 0, away)
    assert latents.missing(shop / "latents", recipe_of(path).data) == [0]
    assert rows.rejects(shop / "latents") == []


def test_pictures_come_from_the_store_too(
    shop: Path, trained_vae: Path, store: Store, prefix: str
) -> None:
    for name in ("image.png", "target.png"):
        store.put(f"{prefix}/{name}", (shop / name).read_bytes(), "image/png")
    here, there = shop / "here", shop / "there"
    found = []
    for work, place in ((here, str(shop)), (there, prefix)):
        cells = {k: f"{place}/{v}" if v.endswith("png") else v for k, v in EDIT.items()}
        path = write(shop, cells)
        plan(path, work)
        found.append(encode(recipe_of(path), work, trained_vae))
    (one,), (other,) = found
    assert all(np.array_equal(getattr(one, n), getattr(other, n)) for n in latents.ARRAYS)


def canvas_of(
    shop: Path,
    cells: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    trained_vae: Path,
    **data: Any,
) -> tuple[Any, Latents]:
    """The canvas that a row is shown as, and its latents."""
    seen: list[Any] = []
    real = latents.encode_canvas

    def watch(built: Any, *args: Any, **options: Any) -> Latents:
        seen.append(built)
        return real(built, *args, **options)

    monkeypatch.setattr(latents, "encode_canvas", watch)
    path = write(shop, cells)
    plan(path, shop)
    (found,) = encode(recipe_of(path, **data), shop, trained_vae)
    return seen[0], found


def pixels(path: Path) -> torch.Tensor:
    return normalise(np.asarray(Image.open(path).convert("RGB")))


def test_a_masked_edit_keeps_its_content_in_the_change_and_a_fill_has_none(
    shop: Path, trained_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, target = pixels(shop / "image.png"), pixels(shop / "target.png")
    mask = torch.zeros(1, 64, 96)
    mask[:, 16:48, 32:64] = 1
    masked = EDIT | {"mask": "mask.png"}
    built, found = canvas_of(shop, masked, monkeypatch, trained_vae)
    assert torch.equal(built.target_CHW, target)
    assert torch.equal(built.edit_CHW, image * (1 - mask))
    assert torch.equal(built.change_CHW, image * mask)
    assert torch.equal(built.mask_1HW, mask)
    assert (found.shape, found.reference_w) == ("008x012x000", 0)
    for path in (shop / "latents").iterdir():
        path.unlink()
    built, _ = canvas_of(shop, FILL, monkeypatch, trained_vae)
    assert torch.equal(built.edit_CHW, image * (1 - mask))
    assert not built.change_CHW.any()


def test_a_reference_stands_left_within_the_budget(
    shop: Path, trained_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, found = canvas_of(shop, TRY_ON, monkeypatch, trained_vae, max_seq_len=20)
    height, width = built.mask_1HW.shape[1:]
    assert (height // 16) * (width // 16) <= 20
    assert not built.mask_1HW[..., : built.reference_px].any()
    seam = found.reference_w * 8
    assert abs(seam - built.reference_px) <= 8  # half a token
    assert seam % 16 == 0
    assert not found.stage_1_B.any()
    assert found.shape == f"{height // 8:03}x{width // 8:03}x{seam // 8:03}"


def test_a_picture_of_a_reference_alone_starts_from_nothing(
    shop: Path, trained_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, _ = canvas_of(shop, REFERENCE, monkeypatch, trained_vae)
    right = built.edit_CHW[..., built.reference_px + 1 :]
    assert not right.any()
    assert not built.change_CHW.any()
    assert built.mask_1HW[..., built.reference_px + 1 :].all()


def test_a_grey_mask_is_what_an_edit_makes_of_it(
    shop: Path, trained_vae: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = np.linspace(0, 255, 96).astype(np.uint8)[None].repeat(64, 0)
    Image.fromarray(ramp).save(shop / "mask.png")
    built, _ = canvas_of(shop, FILL, monkeypatch, trained_vae)
    assert torch.equal(built.mask_1HW[0], torch.tensor(ramp > MASK_THRESHOLD).float())


def test_a_control_is_shown_as_an_edit_shows_it(shop: Path, trained_vae: Path) -> None:
    grey = controls.gray(np.asarray(Image.open(shop / "image.png").convert("RGB")))
    Image.fromarray(grey).save(shop / "grey.png")

    def encoded(name: str, **row: Any) -> Latents:
        catalog, work = write(shop, EDIT | row, EDIT | {"control": "depth"}), shop / name
        plan(catalog, work)
        (found,) = encode(recipe_of(catalog), work, trained_vae)
        return found

    drawn, given = encoded("drawn", control="gray"), encoded("given", image="grey.png")
    assert np.array_equal(drawn.change_BCHW, given.change_BCHW)
    assert not np.array_equal(drawn.change_BCHW, encoded("plain").change_BCHW)
    (reject,) = rows.rejects(shop / "drawn" / "latents")
    assert (reject["line"], reject["field"]) == (2, "control")


def test_a_chunk_is_a_function_of_its_rows(shop: Path, trained_vae: Path) -> None:
    path = write(shop, *[TRY_ON] * 6)
    recipe = recipe_of(path, empty_prompts=0.5)
    for work in (shop / "a", shop / "b"):
        plan(path, work)
        encode(recipe, work, trained_vae)
    for number in (0, 1):
        one, other = (latents.chunk_path(shop / w / "latents", number) for w in "ab")
        assert one.read_bytes() == other.read_bytes()
    assert latents.missing(shop / "a" / "latents", recipe.data) == []


# ---------------------------------------------------------------- training on it


def test_few_examples_of_many_shapes_are_enough(shop: Path, trained_vae: Path) -> None:
    """Each shape has one or two, a batch four; a broken row among them costs itself alone."""
    sizes = [EDIT | {"target": "small.png"}, REFERENCE | {"target": "small.png"}]
    path = write(shop, EDIT, FILL, TRY_ON, *sizes, EDIT | {"image": "broken.png"})
    plan(path, shop)
    recipe = recipe_of(path)
    found = encode(recipe, shop, trained_vae)
    assert len(found) >= 3
    assert max(map(len, found)) < recipe.objective.batch
    logged: list[dict[str, float]] = []
    assert train_denoiser(recipe, shop, lambda step, numbers: logged.append(numbers))
    assert all(np.isfinite(each["loss"]) for each in logged)
    assert any("reference" in each for each in logged)


def test_a_batch_larger_than_its_shape_sees_other_noise() -> None:
    shape = np.zeros((1, 16, 8, 12), np.float16)
    ids = np.zeros((1, 4), np.int16)
    mask = np.zeros((1, 64, 8, 12), np.uint8)
    one = Latents(shape, shape, shape, mask, ids, ids, np.ones(1, bool), seam=0)
    batch, noise, sigma = Batches([one], ObjectiveSettings(batch=3), 10).take(0)
    assert len(batch) == 3
    assert not torch.equal(noise[0], noise[1])
    assert len(set(sigma.tolist())) == 3
    assert batch.seam == 0


def test_no_example_at_all_ends_a_training_with_a_reason(shop: Path, trained_vae: Path) -> None:
    path = write(shop, EDIT | {"target": "broken.png"})
    plan(path, shop)
    recipe = recipe_of(path)
    assert encode(recipe, shop, trained_vae) == []
    with pytest.raises(SettingsError, match="no example to learn from"):
        train_denoiser(recipe, shop, quiet)
    assert len(rows.rejects(shop / "latents")) == 1


# ---------------------------------------------------------------- recipes


def test_a_recipe_may_be_given_a_catalog() -> None:
    world = tiny_recipe()
    recipe = world.given(catalog="s3://shop/pairs.jsonl")
    assert isinstance(recipe.data, rows.CatalogData)
    assert recipe.data.catalog == "s3://shop/pairs.jsonl"
    kept = recipe.given(catalog="s3://shop/other.jsonl", start_from="")
    assert isinstance(kept.data, rows.CatalogData)
    budget = Recipe.model_validate(
        {"name": "a", "summary": "", "data": {"catalog": None, "max_seq_len": 99}}
    )
    assert budget.given(catalog="b.csv").data == rows.CatalogData(catalog="b.csv", max_seq_len=99)
    check(recipe)


def test_where_a_catalog_lies_decides_no_weight_but_what_it_says_does() -> None:
    one, other = (tiny_recipe(data={"catalog": f"s3://{b}/c.csv"}) for b in "ab")
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint_from("1") != one.fingerprint_from("2") != one.fingerprint
    assert one.fingerprint != tiny_recipe().fingerprint


def test_a_wrong_catalog_setting_says_where(tmp_path: Path) -> None:
    content = {"name": "a", "summary": "", "data": {"catalog": "a.csv", "sizes_px": [64]}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SettingsError, match=r"data.catalog.sizes_px: Extra inputs"):
        Recipe.read(str(tmp_path / "a.json"))


def test_every_stage_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no catalog planned"):
        stages.latents.missing(tmp_path, recipe_of(tmp_path / "c.csv").data)
