"""Test the look at a catalog's pictures and masks before it is paid for. If these break, a thousand
inverted masks reach the GPUs, or a good catalog is called a bad one."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.errors import CatalogError
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture
from ace_tasks.masks import hints
from ace_tasks.model.variants import find_variant
from ace_tasks.replica import inspect
from ace_tasks.replica.inspect import RowInspection
from ace_tasks.settings import ImageLimits, StoreSettings
from ace_tasks.specs import (
    AutoMask,
    PixelSettings,
    Source,
    Sources,
    WorkItem,
    parse_spec,
    work_item,
)
from ace_tasks.store import Store, join_uri
from tests.support.processes import run_python

WIDTH, HEIGHT = 96, 64
LIMITS = ImageLimits()
ROW = {"id": "a", "task": "fill", "image": "i", "prompt": "p"}
LEFT = np.zeros((HEIGHT, WIDTH), np.uint8)
LEFT[10:50, 10:40] = 255


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _item(pixels: PixelSettings = PixelSettings(), **row: Any) -> WorkItem:  # noqa: B008
    source = Source(uri="i", sha256="0" * 64)
    spec = parse_spec(ROW | row)
    file = row.get("mask") == "m.png"
    sources = Sources(image=source, mask=source if file else None)
    return work_item(7, spec, sources, find_variant("toy").identity(), pixels)


def _photo(seed: int = 0) -> Picture:
    rgb = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return codec.decode(_png(rgb), LIMITS)


def _judge(mask: np.ndarray, **row: Any) -> RowInspection:
    file = codec.decode(_png(mask), LIMITS)
    return inspect.judge(_item(mask="m.png", **row), _photo(), file)


# ---------------------------------------------------------------- one row


def test_a_good_row_has_its_sizes_and_its_coverage_and_nothing_to_report() -> None:
    assert _judge(LEFT) == RowInspection(
        line=7,
        row_id="a",
        task="fill",
        image_px=(96, 64),
        mask_px=(96, 64),
        coverage=round(40 * 30 / LEFT.size, 6),
        grey=0.0,
        tokens=24,
    )


def test_the_coverage_is_that_of_the_mask_with_its_steps() -> None:
    grown, inverted = _judge(LEFT, mask_grow=5), _judge(LEFT, mask_invert=True)
    plain = _judge(LEFT).coverage
    assert plain is not None
    assert grown.coverage is not None
    assert grown.coverage > plain
    assert inverted.coverage == pytest.approx(1 - plain, abs=1e-5)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.zeros_like(LEFT), "bad_mask: the mask selects no pixel"),
        (np.full_like(LEFT, 255), "bad_mask: the mask selects every pixel"),
        (LEFT[:, :90], "bad_mask: accepted: a mask of its picture's size, 96×64; given 90×64"),
        (np.dstack([LEFT] * 4), "bad_mask: accepted: a mask without transparency"),
    ],
    ids=["empty", "full", "another size", "transparent"],
)
def test_a_mask_that_fails_on_a_replica_is_a_problem_with_the_same_sentence(
    mask: np.ndarray, says: str
) -> None:
    found = _judge(mask)
    assert found.problem is not None
    assert found.problem.startswith(says)
    assert found.coverage is None
    assert found.mask_px == (mask.shape[1], mask.shape[0])


def test_a_mask_the_wrong_way_round_is_hinted_at() -> None:
    assert [hint for hint in _judge(255 - LEFT).hints if "inverted?" in hint]
    assert not _judge(LEFT).hints
    assert not _judge(255 - LEFT, mask_invert=True).hints
    background = inspect.judge(_item(mask={"box": [0, 0, 96, 50]}), _photo(), None)
    assert background.coverage == pytest.approx(50 / 64, abs=1e-5)
    assert not background.hints  # a shape is drawn as it is meant


def test_most_of_a_picture_without_its_rim_is_not_the_wrong_way_round() -> None:
    inner = np.zeros_like(LEFT)
    inner[2:-2, 2:-2] = 255
    assert not hints.looks_inverted(inner)
    assert hints.looks_inverted(255 - LEFT)
    corner = np.zeros_like(LEFT)
    corner[:30, :] = 255  # touches half the rim, and covers less than half
    assert not hints.looks_inverted(corner)


def test_a_picture_in_the_place_of_a_mask_is_hinted_at() -> None:
    noise = np.random.default_rng(1).integers(0, 256, LEFT.shape, dtype=np.uint8)
    picture = _judge(noise)
    assert picture.grey == pytest.approx((239 - 16 + 1) / 256, abs=0.02)
    assert "a picture rather than a mask?" in picture.hints[0]
    soft = LEFT.copy()
    soft[10:50, 36:48] = 140
    assert "a soft mask?" in _judge(soft).hints[0]
    edge = LEFT.copy()
    edge[10:50, 40] = 140  # antialiased, as any drawn mask is
    assert not _judge(edge).hints


@pytest.mark.parametrize(("level", "grey"), [(15, 0.0), (16, 1.0), (239, 1.0), (240, 0.0)])
def test_grey_is_what_is_neither_black_nor_white(level: int, grey: float) -> None:
    assert hints.grey_share(np.full((4, 4), level, np.uint8)) == grey


def test_a_mask_of_a_model_is_left_to_it_unless_it_is_here() -> None:
    item = _item(PixelSettings(auto_mask=AutoMask(method="model")), mask="auto")
    found = inspect.judge(item, _photo(), None)
    assert (found.problem, found.coverage) == (None, None)
    assert "the model makes its mask" in found.hints[0]
    made = inspect.judge(item, _photo(), None, segment=lambda *_: LEFT)
    assert made.coverage == round(40 * 30 / LEFT.size, 6)


def test_a_background_takes_no_tokens_and_shows_what_is_cut_out() -> None:
    spec = parse_spec({"id": "a", "task": "background", "image": "i"})
    source = Source(uri="i", sha256="0" * 64)
    pixels = PixelSettings(auto_mask=AutoMask(method="grabcut"))
    model = find_variant("toy").identity()
    item = work_item(7, spec, Sources(image=source), model, pixels)
    found = inspect.judge(item, _red_mug(), None)
    assert (found.problem, found.tokens) == (None, 0)
    assert found.coverage == pytest.approx(40 * 30 / LEFT.size, abs=0.05)


def _red_mug() -> Picture:
    rgb = np.full((*LEFT.shape, 3), 235, np.uint8)
    rgb[LEFT > 0] = (170, 40, 30)
    return codec.decode(_png(rgb), LIMITS)


# ---------------------------------------------------------------- many rows


@pytest.fixture
def items(store: Store, prefix: str, planned: Callable[..., WorkItem]) -> list[WorkItem]:
    """Plan ten rows: the fourth has a broken picture, the sixth a mask that is not there."""
    store.put(join_uri(prefix, "in/broken.png"), b"<html>", "image/png")
    row = {"task": "fill", "image": "in/image.png", "mask": "in/mask.png"}
    wrong = {3: {"image": "in/broken.png"}, 5: {"mask": "in/none.png"}}
    wrong[7] = {"task": "try_on", "reference": "in/broken.png"}
    return [planned(**row | {"id": f"row-{n}"} | wrong.get(n, {})) for n in range(10)]


def test_every_row_is_looked_at_and_its_problem_reported(
    items: list[WorkItem], store: Store
) -> None:
    found = [*inspect.look_over(items, store, LIMITS)]
    assert [each.row_id for each in found] == [f"row-{n}" for n in range(10)]
    problems = {each.row_id: each.problem for each in found if each.problem}
    assert problems.keys() == {"row-3", "row-5", "row-7"}
    assert "bad_image" in str(problems["row-3"])
    assert "source_missing" in str(problems["row-5"])
    assert "in/broken.png" in str(problems["row-7"])
    assert found[0].coverage == round(30 * 50 / (64 * 96), 6)
    assert (found[3].image_px, found[3].mask_px) == (None, (96, 64))
    assert found[5].image_px == (96, 64)


def test_no_more_is_read_ahead_than_there_are_threads_for(
    items: list[WorkItem], store: Store
) -> None:
    """A million rows are a stream, and their pictures do not fit into memory."""
    reads: list[str] = []
    lock = threading.Lock()

    class Counting(Store):
        def get(self, uri: str, **options: Any) -> bytes:
            with lock:
                reads.append(uri)
            return super().get(uri, **options)

    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield items[0]

    findings = inspect.look_over(endless(), Counting(StoreSettings()), LIMITS)
    for _ in range(5):
        next(findings)
    findings.close()
    assert taken <= 5 + 2 * inspect._MOST_THREADS
    assert len(reads) <= 2 * taken


def test_a_store_that_is_away_stops_the_look(items: list[WorkItem]) -> None:
    """Each of a million rows would wait for it, and be called a bad one."""
    away = Store(StoreSettings(endpoint_url="http://127.0.0.1:9", max_attempts=1, patience_s=0))
    with pytest.raises(CatalogError, match="cannot be read"):
        [*inspect.look_over(items, away, LIMITS)]


# ---------------------------------------------------------------- memory

PEAK = """
import resource, sys
from ace_tasks.replica import host_memory, inspect
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import ImageLimits, StoreSettings
from ace_tasks.specs import Source, Sources, parse_spec, work_item
from ace_tasks.store import Store

def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

spec = parse_spec({"id": "a", "task": "fill", "image": "i", "mask": "alpha", "prompt": "p"})
source = Source(uri=sys.argv[1])
item = work_item(1, spec, Sources(image=source), find_variant("toy").identity())
inspect.cpu_count = lambda: 64
host_memory.limit_bytes = lambda: 2**30
before = peak_kb()
limits = ImageLimits(max_bytes=2**20)  # so that threads are no limit
found = list(inspect.look_over([item] * 8, Store(StoreSettings()), limits))
print(sum(each.coverage is not None for each in found), (peak_kb() - before) // 1000)
"""


@pytest.mark.usefixtures("object_store")  # for its keys
def test_large_pictures_are_not_decoded_side_by_side_where_memory_is_short(tmp_path: Path) -> None:
    rgba = np.zeros((3000, 3000, 4), np.uint8)
    rgba[100:900, :, 3] = 255
    (tmp_path / "large.png").write_bytes(_png(rgba))
    judged, peak_mb = map(int, run_python("-c", PEAK, str(tmp_path / "large.png")).stdout.split())
    assert judged == 8
    assert peak_mb < 300  # a picture takes 105 MB; eight side by side took 840


def test_pixels_are_shared_out_and_what_is_larger_goes_alone() -> None:
    ration = inspect.Ration(100)
    lock, held, most = threading.Lock(), [0], [0]

    def look(px: int) -> None:
        with ration.take(px):
            with lock:
                held[0] += min(px, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= min(px, 100)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(look, [30, 60, 0, 250, 40, 100, 10] * 10))
    assert (held[0], most[0]) == (0, 100)
    with pytest.raises(ValueError, match="broken"), ration.take(100):
        raise ValueError("broken")
    with ration.take(100):  # what an error held is free again
        pass


def test_a_pictures_size_is_read_from_its_header(picture: Callable[..., bytes]) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "AVIF"):
        assert codec.header_of(picture(70, 50, kind=kind))[1] == (70, 50)
    assert codec.header_of(picture(70, 50)[:-100])[1] == (70, 50)
    assert codec.header_of(b"<html>") is None
    assert codec.header_of(b"") is None


def test_a_source_is_read_once_for_its_size_and_its_pixels(
    items: list[WorkItem], store: Store
) -> None:
    reads: list[str] = []

    class Counting(Store):
        def get_version(self, uri: str, *args: Any, **options: Any) -> Any:
            reads.append(uri)
            return super().get_version(uri, *args, **options)

    (found,) = inspect.look_over(items[:1], Counting(StoreSettings()), LIMITS)
    assert found.problem is None
    assert len(reads) == len(set(reads)) == 2
