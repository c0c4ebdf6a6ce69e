"""ONNX networks that tell what stands out. If these break, a model that somebody brought selects
another part of each picture than it should, or one that does not fit is used all the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ace_tasks.errors import BadMask, WeightsError
from ace_tasks.model import places
from ace_tasks.model.saliency import Saliency
from ace_tasks.model.sources import identify_vision
from ace_tasks.model.vision import Vision
from ace_tasks.settings import VisionSettings, WeightsSettings
from tests.support import tiny_onnx

PICTURE = np.full((64, 96, 3), (60, 60, 60), np.uint8)
PICTURE[16:48, 24:72] = (240, 30, 30)
RED = PICTURE[..., 0] > 200


def vision_of(folder: Path) -> Vision:
    settings = WeightsSettings(folder=folder.parent / "unused")
    return Vision(VisionSettings(segmenter=identify_vision(str(folder), settings)), settings, "cpu")


def configured(folder: Path, data: bytes, **config: Any) -> Path:
    folder.mkdir()
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return tiny_onnx.make_segmenter(folder, data)


def test_a_network_of_ones_own_makes_masks_as_a_segmenter_does(tmp_path: Path) -> None:
    vision = vision_of(tiny_onnx.make_segmenter(tmp_path / "tiny"))
    mask = vision.segment(PICTURE, None)
    assert mask.dtype == np.uint8
    assert (mask > 0)[20:44, 28:68].all()
    assert not (mask > 0)[~_near(RED)].any()
    with pytest.raises(BadMask, match="knows no labels; given 'shirt'"):
        vision.segment(PICTURE, "shirt")


def _near(selected: np.ndarray, by: int = 4) -> np.ndarray:
    rows, columns = np.nonzero(selected)
    near = np.zeros_like(selected)
    near[rows.min() - by : rows.max() + by + 1, columns.min() - by : columns.max() + by + 1] = True
    return near


def test_a_picture_is_prepared_as_u2nets_authors_do(tmp_path: Path) -> None:
    """Divided by its own maximum: a dark picture is seen as its bright copy is."""
    network = Saliency.load(tiny_onnx.make_segmenter(tmp_path / "tiny"))
    bright, dark = (network.map((PICTURE // 30 * by).astype(np.uint8)) for by in (20, 10))
    assert bright.max() == 1
    assert np.abs(bright - dark).max() < 0.05  # of rounding


def test_a_network_is_prepared_for_as_its_config_says(tmp_path: Path) -> None:
    """Blue stands out here: the config turns the colours' order of importance round."""
    data = tiny_onnx.model((1, 3, None, None), weights=(0, 0, 6))
    size = {"height": 32, "width": 48}
    folder = configured(
        tmp_path / "a", data, size=size, image_mean=[0.5] * 3, image_std=[0.5, 0.5, 0.5]
    )
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :24, 2] = 255
    found = Saliency.load(folder).map(picture)
    assert found.shape == (32, 48)
    assert found[16, 4] == pytest.approx(1)
    assert found[16, 40] == pytest.approx(0)


def test_logits_are_read_as_probabilities(tmp_path: Path) -> None:
    wanted = Saliency.load(tiny_onnx.make_segmenter(tmp_path / "a")).map(PICTURE)
    logits = tiny_onnx.make_segmenter(tmp_path / "b", tiny_onnx.model(sigmoid=False))
    assert np.abs(Saliency.load(logits).map(PICTURE) - wanted).max() < 1e-5


def test_where_nothing_stands_out_noise_is_not_stretched(tmp_path: Path) -> None:
    folder = tiny_onnx.make_segmenter(tmp_path / "a", tiny_onnx.model(weights=(-3, -3, -3)))
    wall = np.random.default_rng(0).integers(200, 220, (40, 40, 3), np.uint8)
    found = Saliency.load(folder).map(wall)
    assert np.ptp(found) > 0
    assert found.max() <= 0.5


@pytest.mark.parametrize(
    ("shape", "more", "message"),
    [
        pytest.param((1, 3, 32, 48), {"channels": 4}, "given 1×4×32×48", id="four labels"),
        pytest.param((1, 1, 32, 48), {}, "1×3×h×w; given 1×1×32×48", id="grey"),
        pytest.param((8, 3, 32, 48), {}, "given 8×3×32×48", id="a batch"),
        pytest.param((1, 3, None, 48), {}, "says no size", id="any height"),
        pytest.param((1, 3, 8, 48), {}, "accepted: 16 px a side or more.*; given 48×8", id="tiny"),
        pytest.param(
            (1, 3, 4096, 4097), {}, "16,777,216 pixels or fewer; given 4097×4096", id="too large"
        ),
        pytest.param((3, 32, 48), {}, "given 3×32×48", id="no batch"),
    ],
)
def test_another_graph_is_refused_with_what_it_has(
    tmp_path: Path, shape: Sequence[int | None], more: dict[str, Any], message: str
) -> None:
    folder = tiny_onnx.make_segmenter(tmp_path / "a", tiny_onnx.model(shape, **more))
    with pytest.raises(WeightsError, match=message) as refused:
        vision_of(folder).segment(PICTURE, None)
    assert "tiny.onnx" in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param({"image_mean": [0, 0]}, "image_mean: accepted: three numbers", id="mean"),
        pytest.param({"image_std": [1, 1, 0]}, "image_std: accepted: no zero", id="zero"),
        pytest.param({"rescale_factor": "1"}, "rescale_factor: accepted", id="scale"),
        pytest.param({"do_center_crop": True}, "do_center_crop: accepted: false", id="crop"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        Saliency.load(configured(tmp_path / "a", tiny_onnx.model(), **config))


def test_a_network_is_as_strictly_bound_to_its_list_as_other_weights(tmp_path: Path) -> None:
    folder = tiny_onnx.make_segmenter(tmp_path / "a")
    vision = vision_of(folder)
    data = (folder / "tiny.onnx").read_bytes()
    (folder / "tiny.onnx").write_bytes(data + b"\x00")
    with pytest.raises(WeightsError, match=r"tiny\.onnx: altered"):
        vision.segment(PICTURE, None)
    places.pin(folder)
    with pytest.raises(WeightsError, match="other files than those the run was planned with"):
        vision.segment(PICTURE, None)
    (folder / "second.onnx").write_bytes(data)
    places.pin(folder)
    with pytest.raises(WeightsError, match=r"one \.onnx file; given second\.onnx, tiny\.onnx"):
        vision_of(folder).segment(PICTURE, None)


def test_a_network_that_keeps_its_numbers_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tiny_onnx.make_segmenter(tmp_path / "a", tiny_onnx.model(external="../b"))
    with pytest.raises(WeightsError, match=r"tiny\.onnx: it keeps numbers in other files"):
        vision_of(folder).segment(PICTURE, None)
