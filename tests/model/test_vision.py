"""Small models of transformers' own classes, with random weights. If these break, a mask selects
what nobody named, a depth map is inside out, or a file that nobody pinned is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ace_tasks.errors import BadMask, BadOutput, SettingsError, WeightsError
from ace_tasks.model.places import pin
from ace_tasks.model.sources import identify_vision
from ace_tasks.model.vision import ClipScorer, Contour, DepthEstimator, Segmenter, Vision
from ace_tasks.settings import VisionModel, VisionSettings, WeightsSettings
from tests.support import tiny_vision

LABELS = ("background", "mug", "table", "mug")  # a model may call two of its kinds alike
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
PICTURE[10:40, 20:60] = (250, 240, 20)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vision")
    return {
        "segmenter": tiny_vision.make_segmenter(folder / "segmenter", *LABELS),
        "contour": tiny_vision.make_segmenter(folder / "contour", "paper", "line"),
        "dpt": tiny_vision.make_dpt(folder / "dpt"),
        "relative": tiny_vision.make_depth_anything(folder / "relative"),
        "metric": tiny_vision.make_depth_anything(folder / "metric", "metric"),
        "clip": tiny_vision.make_clip(folder / "clip"),
    }


@pytest.fixture
def copy(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a model, to be spoilt."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / name))


def rewrite(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ---------------------------------------------------------------- masks


@pytest.fixture(scope="module")
def segmenter(models: dict[str, Path]) -> Segmenter:
    return Segmenter.load(models["segmenter"], "cpu")


def test_every_pixel_has_one_label(segmenter: Segmenter) -> None:
    masks = {label: segmenter.mask(PICTURE, label) for label in LABELS}
    assert all(mask.shape == (50, 90) and mask.dtype == np.uint8 for mask in masks.values())
    assert all(set(np.unique(mask)) == {0, 255} for mask in masks.values())
    claims = sum((mask > 0).astype(int) for mask in masks.values())
    assert (claims == 1).all()
    assert all(10 < (mask > 0).sum() < 4490 for mask in masks.values())
    foreground = segmenter.mask(PICTURE, None)
    assert np.array_equal(foreground > 0, masks["background"] == 0)


def test_a_mask_is_where_transformers_own_code_sees_its_label(segmenter: Segmenter) -> None:
    network = segmenter._network
    (answer,) = network.processor.post_process_semantic_segmentation(
        network(PICTURE), target_sizes=[(50, 90)]
    )
    table = answer.numpy() == LABELS.index("table")
    assert np.array_equal(segmenter.mask(PICTURE, "table") > 0, table)
    mug = np.isin(answer.numpy(), [1, 3])
    assert np.array_equal(segmenter.mask(PICTURE, "mug") > 0, mug)


def test_probabilities_of_all_labels_are_one(segmenter: Segmenter) -> None:
    shares = [segmenter.probability(PICTURE, label) for label in dict.fromkeys(LABELS)]
    assert all(share.dtype == np.float32 and share.shape == (50, 90) for share in shares)
    assert np.abs(sum(shares) - 1).max() < 1e-5
    assert min(share.min() for share in shares) >= 0


def test_a_label_that_the_model_does_not_know_says_which_it_does(segmenter: Segmenter) -> None:
    with pytest.raises(BadMask, match="labels: background, mug, table; given 'cat'"):
        segmenter.mask(PICTURE, "cat")


def test_without_a_background_a_label_must_be_named(models: dict[str, Path]) -> None:
    model = Segmenter.load(models["contour"], "cpu")
    with pytest.raises(BadMask, match="labels: paper, line; given 'background'"):
        model.mask(PICTURE, None)


# ---------------------------------------------------------------- maps


def test_contours_are_dark_where_lines_are_likely(models: dict[str, Path]) -> None:
    drawn = Contour.load(models["contour"], "cpu").draw(PICTURE)
    likely = Segmenter.load(models["contour"], "cpu").probability(PICTURE, "line")
    assert (drawn.shape, drawn.dtype) == (PICTURE.shape, np.uint8)
    assert np.abs(drawn[..., 0] - 255 * (1 - likely)).max() <= 0.5
    assert np.ptp(drawn) > 20


def test_a_segmenter_that_knows_no_lines_draws_none(models: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"accepted: one of contour, line, edge; given back"):
        Contour.load(models["segmenter"], "cpu")


@pytest.mark.parametrize(("name", "sign"), [("dpt", 1), ("relative", 1), ("metric", -1)])
def test_what_is_near_is_white(models: dict[str, Path], name: str, sign: int) -> None:
    model = DepthEstimator.load(models[name], "cpu")
    drawn = model.draw(PICTURE)
    assert (drawn.shape, drawn.dtype) == (PICTURE.shape, np.uint8)
    assert (drawn.min(), drawn.max()) == (0, 255)
    assert (drawn == drawn[..., :1]).all()
    raw = model._network(PICTURE).predicted_depth[0].numpy()
    small = np.asarray(Image.fromarray(drawn[..., 0]).resize(raw.shape[::-1], 2))
    assert sign * np.corrcoef(small.ravel(), raw.ravel())[0, 1] > 0.9


def test_what_is_all_as_far_is_black(copy: Callable[[str], Path]) -> None:
    folder = copy("relative")
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v * 0 if k.startswith("head") else v for k, v in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert not DepthEstimator.load(folder, "cpu").draw(PICTURE).any()


def test_a_depth_model_whose_near_is_not_known_is_refused(models: dict[str, Path]) -> None:
    model = DepthEstimator.load(models["dpt"], "cpu")
    model._network.model.config.model_type = "glpn"
    with pytest.raises(WeightsError, match="accepted: dpt, depth_anything; given glpn"):
        DepthEstimator(model._network)


# ---------------------------------------------------------------- scores


def test_clip_sees_the_picture_as_its_preprocessor_says(models: dict[str, Path]) -> None:
    scorer = ClipScorer.load(models["clip"], "cpu")
    config = json.loads((models["clip"] / "preprocessor_config.json").read_text())
    scaled = Image.fromarray(PICTURE).resize((64 * 90 // 50, 64), Image.Resampling.BICUBIC)
    left = (scaled.width - 64) // 2
    seen = np.asarray(scaled.crop((left, 0, left + 64, 64))) / 255
    expected = (seen - config["image_mean"]) / config["image_std"]
    prepared = scorer._network.prepare(PICTURE)[0].permute(1, 2, 0).numpy()
    assert np.abs(prepared - expected).max() < 1e-5


def test_a_score_is_the_cosine_of_both(models: dict[str, Path]) -> None:
    scorer = ClipScorer.load(models["clip"], "cpu")
    model = scorer._network.model
    ids = scorer._tokenizer("a red mug", return_tensors="pt").input_ids
    with torch.inference_mode():
        picture = model.visual_projection(
            model.vision_model(scorer._network.prepare(PICTURE)).pooler_output
        )
        text = model.text_projection(model.text_model(ids).pooler_output)
    expected = torch.cosine_similarity(picture, text).item()
    assert scorer.score(PICTURE, "a red mug") == pytest.approx(expected, abs=1e-5)
    assert -1 <= expected <= 1
    assert scorer.score(PICTURE, "snow") != pytest.approx(expected, abs=1e-3)
    long = "a red mug " * 50
    assert scorer.score(PICTURE, long) == scorer.score(PICTURE, long + "in snow")


def test_a_tokenizer_of_another_model_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["mug</w>"] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(WeightsError, match="191 tokens, but 190 embeddings"):
        ClipScorer.load(folder, "cpu")


# ---------------------------------------------------------------- files


def planned(folder: Path, use: str = "segmenter") -> Vision:
    settings = WeightsSettings(folder=folder.parent / "unused")
    model = identify_vision(str(folder), settings)
    return Vision(VisionSettings(**{use: model}), settings, "cpu")


def test_the_same_picture_gives_the_same_answer_from_every_copy(
    copy: Callable[[str], Path], models: dict[str, Path]
) -> None:
    for use in ("segmenter", "contour"):
        here, there = planned(models[use], use), planned(copy(use), use)
        draw = Vision.segment if use == "segmenter" else Vision.draw
        asked: Any = (PICTURE, None) if use == "segmenter" else ("contour", PICTURE)
        assert np.array_equal(draw(here, *asked), draw(there, *asked))
        assert np.array_equal(draw(here, *asked), draw(here, *asked))


def _flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def _pickle(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")


def _drop_a_key(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    del state["decode_head.classifier.bias"]
    save_file(state, path, metadata={"format": "pt"})


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


SPOILT: dict[str, tuple[Callable[[Path], Any], bool, str]] = {
    "a flipped bit": (_flip, False, "model.safetensors: altered; expected SHA-256"),
    "a pickle beside it": (_pickle, False, "pytorch_model.bin: not in sha256.json"),
    "a pickle in the list": (_pickle, True, "pytorch_model.bin: a pickle"),
    "a key that is missing": (_drop_a_key, True, "decode_head.classifier.bias: missing"),
    "half a file": (_cut, True, "not a complete safetensors file"),
    "code of its own": (
        lambda f: rewrite(f / "config.json", auto_map={"AutoModel": "evil.Evil"}),
        True,
        "auto_map: accepted: classes of transformers",
    ),
    "a preprocessor with code": (
        lambda f: rewrite(f / "preprocessor_config.json", auto_map={"AutoImageProcessor": "e.E"}),
        True,
        "preprocessor_config.json: auto_map",
    ),
    "no preprocessor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        True,
        "No such file",
    ),
    "an unknown preprocessor": (
        lambda f: rewrite(f / "preprocessor_config.json", image_processor_type="Evil"),
        True,
        "preprocessor_config.json: ",
    ),
    "a preprocessor that crops": (
        lambda f: rewrite(f / "preprocessor_config.json", do_center_crop=True),
        True,
        "do_center_crop: accepted: false",
    ),
    "one that does not resize": (
        lambda f: rewrite(f / "preprocessor_config.json", do_resize=False),
        True,
        "do_resize: accepted: true",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_not_as_it_was_pinned_or_does_not_fit_is_refused(
    copy: Callable[[str], Path], what: str
) -> None:
    spoil, pinned_again, message = SPOILT[what]
    folder = copy("segmenter")
    spoil(folder)
    with pytest.raises(WeightsError) as refused:  # noqa: PT012 - whichever sees it first
        if pinned_again:
            pin(folder)
        planned(folder).segment(PICTURE, None)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_files_than_were_planned_with_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("segmenter")
    vision = planned(folder)
    rewrite(folder / "preprocessor_config.json", image_mean=[0, 0, 0])
    pin(folder)
    with pytest.raises(WeightsError, match="other files than those the run was planned with"):
        vision.segment(PICTURE, None)


def test_numbers_that_are_none_are_no_mask(copy: Callable[[str], Path]) -> None:
    folder = copy("segmenter")
    path = folder / "model.safetensors"
    state = load_file(path)
    state["decode_head.classifier.bias"][0] = torch.nan
    save_file(state, path, metadata={"format": "pt"})
    pin(folder)
    with pytest.raises(BadOutput, match="has NaN or infinite numbers"):
        planned(folder).segment(PICTURE, None)


def test_of_many_items_one_loads_the_model_and_none_before_it_is_needed(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    load = Segmenter.load.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Segmenter], folder: Path, device: str) -> Segmenter:
        loaded.append(folder)
        return load(cls, folder, device)  # type: ignore[no-any-return]

    monkeypatch.setattr(Segmenter, "load", classmethod(counted))
    vision = planned(models["segmenter"])
    assert loaded == []
    with ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda _: vision.segment(PICTURE, "mug"), range(4)))
    assert loaded == [models["segmenter"]]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_a_model_that_the_run_does_not_name_is_asked_for_in_vain(tmp_path: Path) -> None:
    vision = Vision(VisionSettings(), WeightsSettings(folder=tmp_path), "cpu")
    with pytest.raises(SettingsError, match="ClipScorer: the run names no model for it"):
        vision.score(PICTURE, "a mug")


def test_a_folder_is_known_by_its_files_wherever_it_lies(
    models: dict[str, Path], copy: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = WeightsSettings(folder=tmp_path)
    here, there = (identify_vision(str(f), settings) for f in (models["clip"], copy("clip")))
    assert here.fingerprint == there.fingerprint
    assert here == VisionModel(place=str(models["clip"]), fingerprint=here.fingerprint)
    assert identify_vision(str(models["dpt"]), settings).fingerprint != here.fingerprint
