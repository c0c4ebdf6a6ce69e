"""The life of an item on a real store with the real classes. If these break, a picture is
published twice, a failure ends its neighbours, or a record does not say what made the picture."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.errors import BadOutput, Cancelled, OutputRefused
from ace_tasks.images import codec, source_metadata
from ace_tasks.model.ace import AceModel
from ace_tasks.model.dnn import U2NET, shipped_sha256
from ace_tasks.model.sources import identify_vision, with_vision
from ace_tasks.model.speed import compile_blocks
from ace_tasks.model.variants import find_variant
from ace_tasks.plan.identify import Identities
from ace_tasks.provenance.keys import failure_key, record_key
from ace_tasks.provenance.outcomes import Done, Failed
from ace_tasks.provenance.record import Failure, Record
from ace_tasks.replica.edit import NO_SHADOW
from ace_tasks.replica.publisher import Publisher
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import ReplicaSettings, ReviewSettings, VisionSettings, WeightsSettings
from ace_tasks.specs import (
    AutoMask,
    MaskRules,
    PixelSettings,
    Resolved,
    WorkItem,
    candidate_seeds,
    parse_spec,
    work_item,
)
from ace_tasks.store import Store, join_uri
from infra.sample.make import HERE
from tests.replica.test_pixels import P3
from tests.support.patience import limit_s, wait_until
from tests.support.tiny_vision import make_clip, make_depth_anything, make_segmenter

Make = Callable[..., bytes]


def new_replica(weights_dir: Path, output_uri: str, variant: str = "toy", **more: Any) -> Replica:
    replica = unstarted_replica(weights_dir, output_uri, variant, **more)
    replica.start()
    return replica


def unstarted_replica(
    weights_dir: Path, output_uri: str, variant: str = "toy", **more: Any
) -> Replica:
    settings = ReplicaSettings(
        variant=variant,
        weights=WeightsSettings(folder=weights_dir),
        output_uri=output_uri,
        **more,
    )
    return Replica(settings, "run-1", "replica-0")


def record_of(store: Store, prefix: str, item: WorkItem) -> Record:
    return Record.model_validate_json(store.get(join_uri(prefix, record_key(item.item_id))))


@pytest.fixture
def replica(weights_dir: Path, prefix: str) -> Replica:
    return new_replica(weights_dir, prefix)


FILL = {"task": "fill", "image": "in/image.png", "mask": "in/mask.png"}
TASKS = [
    FILL,
    {"task": "edit", "image": "in/image.png"},
    {"task": "reference", "reference": "in/ref.png", "width": 128, "height": 96},
    {"task": "try_on", "image": "in/image.png", "mask": "in/mask.png", "reference": "in/ref.png"},
]


@pytest.mark.parametrize("variant", ["toy", "toy-lora"])
@pytest.mark.parametrize("row", [pytest.param(each, id=each["task"]) for each in TASKS])
def test_each_task_is_published_with_its_record(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    store: Store,
    prefix: str,
    row: dict[str, Any],
    variant: str,
) -> None:
    item = planned(variant, **row)
    done = new_replica(weights_dir, prefix, variant).run(item, 3)
    assert isinstance(done, Done), done
    data = store.get(done.output_uri)
    record = record_of(store, prefix, item)
    assert hashlib.sha256(data).hexdigest() == record.output.sha256 == done.sha256
    pixels = codec.decode(data, codec.ImageLimits())
    assert codec.pixels_sha256(pixels.rgb) == record.output.pixels_sha256
    assert pixels.size_px == record.output.size_px
    assert done.output_uri == join_uri(
        prefix, f"images/row-1/{item.item_id[:16]}.{done.sha256[:8]}.png"
    )
    assert (record.row_id, record.item_id) == ("row-1", item.item_id)
    assert parse_spec(record.spec) == item.spec
    assert Resolved.model_validate(record.resolved) == item.resolved
    assert record.sampling.seed == item.resolved.seed
    assert record.run.shard == 3
    sources = [record.sources.image, record.sources.mask, *record.sources.reference]
    for planned_source, fetched in zip(
        item.sources.each(), [each for each in sources if each], strict=True
    ):
        assert fetched.uri == planned_source.uri
        assert hashlib.sha256(store.get(fetched.uri)).hexdigest() == fetched.sha256
    assert {"fetch", "build", "wait_gpu", "generate", "encode"} <= record.timings_s.keys()


def test_the_same_item_gives_the_same_pixels_anywhere(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store
) -> None:
    item = planned(**FILL)
    elsewhere = planned(**FILL | {"id": "another-row"})
    assert elsewhere.item_id == item.item_id
    hashes = []
    for place in ("a", "b"):
        replica = new_replica(weights_dir, join_uri(prefix, place))
        replica.run(planned(task="edit", image="in/ref.png"), 0)  # a neighbour before it
        done = replica.run(item, 0)
        assert isinstance(done, Done)
        hashes.append(record_of(store, join_uri(prefix, place), item).output.pixels_sha256)
    assert hashes[0] == hashes[1]


def test_a_control_is_another_item_and_another_picture(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store, tmp_path: Path
) -> None:
    weights = WeightsSettings(folder=weights_dir)
    depth = identify_vision(str(make_depth_anything(tmp_path / "depth")), weights)
    settings = ReplicaSettings(
        variant="toy", weights=weights, output_uri=prefix, vision=VisionSettings(depth=depth)
    )
    replica = Replica(settings, "run-1", "replica-0")
    replica.start()
    plain = planned(task="edit", image="in/image.png", seed=1)
    spec = plain.spec.model_copy(update={"control": "depth"})
    pixels = PixelSettings(control_models={"depth": depth.fingerprint})
    model = find_variant("toy").identity()
    items = {
        "none": plain,
        "canny": planned(task="edit", image="in/image.png", seed=1, control="canny"),
        "depth": work_item(1, spec, plain.sources, model, pixels),
    }
    assert len({item.item_id for item in items.values()}) == 3
    done = {control: replica.run(item, 0) for control, item in items.items()}
    assert all(isinstance(each, Done) for each in done.values()), done
    assert len({each.sha256 for each in done.values() if isinstance(each, Done)}) == 3
    record = record_of(store, prefix, items["depth"])
    assert (record.resolved["control"], record.resolved["control_model"]) == (
        "depth",
        depth.fingerprint,
    )


def test_a_model_makes_the_mask_and_another_helps_to_choose(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str, store: Store, tmp_path: Path
) -> None:
    weights = WeightsSettings(folder=weights_dir)
    places = {
        "segmenter": make_segmenter(tmp_path / "segmenter", "background", "shirt", "skirt"),
        "clip": make_clip(tmp_path / "clip"),
    }
    vision = VisionSettings(
        **{use: identify_vision(str(at), weights) for use, at in places.items()}
    )
    replica = new_replica(weights_dir, prefix, vision=vision)
    rules = MaskRules(allow_full=True)
    by_model = AutoMask(method="model")
    pixels = with_vision(PixelSettings(auto_mask=by_model, masks=rules, candidates=2), vision)
    model, plain = find_variant("toy").identity(), planned(task="edit", image="in/image.png")

    def made(label: str | None) -> Record:
        spec = plain.spec.model_copy(update={"mask": "auto", "mask_label": label})
        item = work_item(1, spec, plain.sources, model, pixels)
        assert isinstance(done := replica.run(item, 0), Done), done
        return record_of(store, prefix, item)

    records = {label: made(label) for label in (None, "shirt", "skirt")}
    covered = {label: each.mask.coverage for label, each in records.items() if each.mask}
    # What is no background is the one or the other.
    assert covered[None] >= max(covered["shirt"], covered["skirt"]) > 0
    assert vision.clip
    for record in records.values():
        assert record.resolved["clip_model"] == vision.clip.fingerprint
        assert record.candidates
        assert all(
            each.scores and each.scores.clip is not None for each in record.candidates.candidates
        )


def on_background(
    store: Store, prefix: str, name: str, profile: bytes | None = None, **row: Any
) -> WorkItem:
    """A planned row of task background over one of the sample's photographs."""
    uri = join_uri(prefix, f"in/{name}.jpg")
    photograph = Image.open(HERE / "photos" / f"{name}.jpg")
    out = io.BytesIO()
    photograph.save(out, "JPEG", quality=95, icc_profile=profile)
    store.put(uri, out.getvalue(), "image/jpeg")
    spec = parse_spec({"id": "row-1", "task": "background", "image": uri} | row)
    settings = with_vision(PixelSettings(auto_mask=AutoMask(method="u2net")), VisionSettings())
    sources = Identities(store).sources(spec)
    return work_item(1, spec, sources, find_variant("toy").identity(), settings)


def test_a_photograph_is_cut_out_and_laid_on_a_ground_by_no_model_of_ace(
    replica: Replica, prefix: str, store: Store
) -> None:
    item = on_background(store, prefix, "coffee", background="#fbeedd")
    done = replica.run(item, 0)
    assert isinstance(done, Done), done
    record = record_of(store, prefix, item)
    made = codec.decode(store.get(done.output_uri), codec.ImageLimits())
    source = codec.decode((HERE / "photos/coffee.jpg").read_bytes(), codec.ImageLimits())
    assert (made.format, made.size_px) == ("jpeg", source.size_px)
    ground = np.array((0xFB, 0xEE, 0xDD))
    assert np.abs(made.rgb[:40, :80].astype(int) - ground).max() <= 2
    cup = slice(120, 180), slice(250, 330)  # the coffee in it
    assert np.abs(made.rgb[cup].astype(int) - source.rgb[cup]).mean() < 2
    assert record.sampling is None
    assert record.paste is None
    assert record.mask is not None
    assert 0.4 < record.mask.coverage < 0.55
    assert record.resolved["auto_mask"] == {"method": "u2net", "model": shipped_sha256(U2NET)}
    assert record.marks is not None
    assert str(record.marks.digital_source_type).endswith("/composite")
    assert record.review is None
    assert record.scores is not None
    assert record.scores.total == 1
    assert b"trainedAlgorithmicMedia" not in store.get(done.output_uri)
    assert record.sources.image is not None
    assert source_metadata.ENCODED_ANEW not in record.sources.image.converted


def test_on_a_transparent_ground_the_alpha_is_the_cut_out(
    replica: Replica, prefix: str, store: Store
) -> None:
    item = on_background(store, prefix, "flower", background="transparent", shadow=True)
    done = replica.run(item, 0)
    assert isinstance(done, Done), done
    made = codec.decode(store.get(done.output_uri), codec.ImageLimits())
    assert made.format == "png"
    assert made.alpha is not None
    assert (made.alpha[200:240, 280:330] == 255).all()
    assert not made.alpha[:60].any()
    assert ((made.alpha > 0) & (made.alpha < 255)).mean() < 0.05
    record = record_of(store, prefix, item)
    assert record.sources.image is not None
    assert NO_SHADOW in record.sources.image.converted  # leaves are no plain background


def test_a_preset_makes_srgb_of_a_wide_gamut_photograph_and_the_ground_keeps_its_colour(
    replica: Replica, prefix: str, store: Store
) -> None:
    item = on_background(store, prefix, "coffee", P3, background="#00a0ff", preset="packshot-2000")
    done = replica.run(item, 0)
    assert isinstance(done, Done), done
    made = codec.decode(store.get(done.output_uri), codec.ImageLimits())
    assert (made.size_px, made.icc_profile) == ((2000, 2000), None)
    seen = made.rgb
    assert np.abs(seen[:100].astype(int) - (0, 160, 255)).max() <= 3  # the padding
    assert np.abs(seen[500:520, 160:200].astype(int) - (0, 160, 255)).max() <= 3  # the background


def bad_pictures(picture: Make) -> dict[str, bytes]:
    good = picture(96, 64, kind="JPEG")
    animation = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:])
    return {
        "truncated JPEG": good[: len(good) // 2],
        "HTML": b"<html><body>404 Not Found</body></html>",
        "zero bytes": b"",
        "one pixel": picture(1, 1),
        "fifteen pixels": picture(15, 64),
        "animation": animation.getvalue(),
        "a TIFF": picture(64, 64, kind="TIFF"),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "a GIF": picture(64, 64, kind="GIF", mode="P"),
        "random bytes": bytes(range(256)) * 10,
        "PNG header only": picture()[:33],
    }


def test_a_bad_picture_is_a_failure_with_a_reason(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str, picture: Make
) -> None:
    for kind, data in bad_pictures(picture).items():
        store.put(join_uri(prefix, "in/bad.jpg"), data, "image/jpeg")
        item = planned(task="edit", image="in/bad.jpg")
        failed = replica.run(item, 0)
        assert isinstance(failed, Failed), kind
        assert (failed.code, failed.transient) == ("bad_image", False), kind
        assert "in/bad.jpg" in failed.message
        body = store.get(join_uri(prefix, failure_key(item.item_id)))
        written = Failure.model_validate_json(body)
        assert (written.code, written.message) == (failed.code, failed.message)
        assert written.row["image"] == join_uri(prefix, "in/bad.jpg")
    assert not list(store.list(join_uri(prefix, "records/")))


def test_what_does_not_fit_is_a_failure_with_a_reason(
    planned: Callable[..., WorkItem], replica: Replica
) -> None:
    for change, code, message in (
        ({"mask": "in/ref.png"}, "bad_mask", "96×64; given 64×64"),
        ({"mask": "alpha"}, "bad_mask", "alpha channel"),
        ({"mask": {"box": [0, 0, 500, 20]}}, "bad_mask", "outside"),
        ({"image": "in/nothing.png"}, "source_missing", "no such object"),
        ({"image": "s3://no-such-bucket/a.png"}, "source_missing", "no such object"),
    ):
        failed = replica.run(planned(**FILL | change), 0)
        assert isinstance(failed, Failed), change
        assert failed.code == code
        assert message in failed.message


def put_mask(store: Store, prefix: str, levels: tuple[int, ...]) -> None:
    """A mask of bands of these levels, as in/map.png."""
    out = io.BytesIO()
    bands = np.repeat(np.array(levels, np.uint8), 96 // len(levels))
    Image.fromarray(np.tile(bands, (64, 1))).save(out, "PNG")
    store.put(join_uri(prefix, "in/map.png"), out.getvalue(), "image/png")


def test_a_mask_that_looks_like_a_mistake_is_named_with_the_picture(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> None:
    put_mask(store, prefix, (0, 100, 255))
    item = planned(**FILL | {"mask": "in/map.png"})
    done = replica.run(item, 0)
    assert isinstance(done, Done), done
    assert [*done.hints] == ["label_map"]
    assert "its mask's 3 levels are 0, 100 and 255: a label map" in done.hints["label_map"]
    record = record_of(store, prefix, item)
    assert record.mask is not None
    assert record.mask.hints == done.hints
    good = replica.run(planned(**FILL), 0)
    assert isinstance(good, Done)
    assert good.hints == {}


def test_a_strict_run_publishes_nothing_of_such_a_mask(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_mask(store, prefix, (0, 100, 255))
    strict = new_replica(weights_dir, prefix, review=ReviewSettings(strict_masks=True))
    monkeypatch.delattr(AceModel, "generate")  # whoever asks for it now has an internal error
    item = planned(**FILL | {"mask": "in/map.png"})
    failed = strict.run(item, 0)
    assert isinstance(failed, Failed), failed
    assert (failed.code, failed.transient) == ("suspect_mask", False)
    assert "its mask's 3 levels are 0, 100 and 255" in failed.message
    assert [*failed.hints] == ["label_map"]
    assert not list(store.list(join_uri(prefix, "images/")))
    assert not list(store.list(join_uri(prefix, "records/")))


def test_a_0_1_mask_is_refused_with_its_levels(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> None:
    put_mask(store, prefix, (0, 1))
    failed = replica.run(planned(**FILL | {"mask": "in/map.png"}), 0)
    assert isinstance(failed, Failed), failed
    assert failed.code == "bad_mask"
    assert "its levels are 0 and 1" in failed.message


def test_an_allowed_empty_mask_is_published_without_a_model_and_says_so(
    planned: Callable[..., WorkItem],
    replica: Replica,
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    item = planned(**FILL, mask_grow=-64)  # nothing is left of it
    refused = replica.run(item, 0)
    assert isinstance(refused, Failed)
    assert refused.code == "bad_mask"
    steps = item.resolved.mask_steps.model_copy(update={"allow_empty": True})  # type: ignore[union-attr]
    resolved = item.resolved.model_copy(update={"mask_steps": steps})
    monkeypatch.delattr(AceModel, "generate")  # whoever asks for it now has an internal error
    done = replica.run(item.model_copy(update={"resolved": resolved}), 0)
    assert isinstance(done, Done), done
    record = record_of(store, prefix, item)
    assert record.sampling is None
    assert record.mask is not None
    assert record.mask.coverage == 0
    source = codec.decode(store.get(join_uri(prefix, "in/image.png")), codec.ImageLimits())
    made = codec.decode(store.get(done.output_uri), codec.ImageLimits())
    assert codec.pixels_sha256(made.rgb) == codec.pixels_sha256(source.rgb)


def test_a_record_says_how_much_its_mask_selects(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> None:
    item = planned(**FILL, mask_invert=True)
    assert isinstance(replica.run(item, 0), Done)
    record = record_of(store, prefix, item)
    assert record.mask is not None
    assert record.mask.coverage == pytest.approx(1 - 30 * 50 / (64 * 96), abs=1e-5)
    assert record.mask.drawing is not None
    with Image.open(io.BytesIO(base64.b64decode(record.mask.drawing))) as drawing:
        selected = np.asarray(drawing)
    assert selected.shape == (64, 96)
    assert not selected[10:40, 20:70].any()
    assert selected.mean() == pytest.approx(record.mask.coverage, abs=1e-5)


def test_a_source_that_changed_after_planning_is_not_edited(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str, picture: Make
) -> None:
    item = planned(**FILL)
    store.put(join_uri(prefix, "in/image.png"), picture(seed=9), "image/png")
    failed = replica.run(item, 0)
    assert isinstance(failed, Failed)
    assert failed.code == "source_changed"


def test_racing_attempts_publish_once(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs of one catalog: one record stands, both name the picture it names."""
    item = planned(**FILL)
    other_row = planned(**FILL | {"id": "row-2"})
    replicas = [new_replica(weights_dir, prefix) for _ in range(2)]
    outcomes: list[Any] = [None, None]
    barrier = threading.Barrier(2)
    publish = Publisher.publish

    def meet(*given: Any) -> Any:  # just before publishing, whatever the scheduler does
        barrier.wait()
        return publish(*given)

    monkeypatch.setattr(Publisher, "publish", meet)

    def run(number: int) -> None:
        outcomes[number] = replicas[number].run((item, other_row)[number], 0)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[0].output_uri == outcomes[1].output_uri
    assert sorted(each.published_by_us for each in outcomes) == [False, True]
    pictures = [each.uri for each in store.list(join_uri(prefix, "images/"))]
    assert pictures == [outcomes[0].output_uri]  # the loser's own key is gone
    assert len(list(store.list(join_uri(prefix, "records/")))) == 1


def test_a_second_attempt_with_the_same_bytes_keeps_the_picture(
    planned: Callable[..., WorkItem], replica: Replica, store: Store
) -> None:
    item = planned(**FILL)
    first, second = replica.run(item, 0), replica.run(item, 0)
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert (first.published_by_us, second.published_by_us) == (True, False)
    assert store.head(second.output_uri).size_bytes > 0


def test_a_file_in_the_records_place_fails_the_item_and_stays(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> None:
    """It may be somebody's. It comes while the item is edited, or no resume would try the item."""
    item = planned(**FILL)
    marker = join_uri(prefix, record_key(item.item_id))
    for body in (b"\x00 no JSON", b'{"shop": [1]}', b"[" * 5000):
        store.put(marker, body, "text/plain")
        failed = replica.run(item, 0)
        assert isinstance(failed, Failed)
        assert (failed.code, failed.transient) == ("bad_record", True)
        assert marker in failed.message
        assert store.get(marker) == body
    store.delete(marker)
    assert isinstance(replica.run(item, 0), Done)


def test_a_lost_answer_is_still_our_success(
    planned: Callable[..., WorkItem], replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record arrived, its answer did not, and the retry met its own record (412)."""
    really = Store.put_if_absent

    def lose_the_answer(*given: Any) -> bool:
        really(*given)
        return really(*given)

    monkeypatch.setattr(Store, "put_if_absent", lose_the_answer)
    done = replica.run(planned(**FILL), 0)
    assert isinstance(done, Done)
    assert done.published_by_us


def test_cancel_stops_between_steps_and_publishes_nothing(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> None:
    steps: list[int] = []
    check = replica._check_cancelled

    def cancel_at_third_step() -> None:
        steps.append(1)
        if len(steps) == 4:  # one check before the first step
            replica.cancel()
        check()

    replica._check_cancelled = cancel_at_third_step  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        replica.run(planned(**FILL, steps=50), 0)
    assert len(steps) == 4
    assert not list(store.list(join_uri(prefix, "images/")))
    assert replica.busy_s() == {}


def test_a_cancel_before_the_start_begins_no_item(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str
) -> None:
    """A run may be cancelled while its replicas load their model."""
    replica = unstarted_replica(weights_dir, prefix)
    replica.cancel()
    replica.start()
    with pytest.raises(Cancelled):
        replica.run(planned(**FILL), 0)


def test_an_output_bucket_that_vanished_stops_the_run(
    planned: Callable[..., WorkItem], weights_dir: Path
) -> None:
    replica = new_replica(weights_dir, "s3://bucket-that-is-gone/out")
    with pytest.raises(OutputRefused):
        replica.run(planned(**FILL), 0)


def _phase(replica: Replica, item: WorkItem) -> str | None:
    progress = replica._in_flight.get(item.item_id)
    return progress and progress.phase


def test_waiting_for_the_gpu_is_not_work(
    planned: Callable[..., WorkItem], replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead_s)
    monkeypatch.setattr("ace_tasks.replica.progress.time", clock)
    items = {"generate": planned(**FILL), "wait_gpu": planned(**FILL, seed=2)}
    go = threading.Event()
    generate = AceModel.generate

    def hold_the_gpu(model: AceModel, jobs: Any, *more: Any) -> Any:
        assert go.wait(limit_s())
        return generate(model, jobs, *more)

    monkeypatch.setattr(AceModel, "generate", hold_the_gpu)
    with ThreadPoolExecutor(2) as threads:
        try:
            for phase, item in items.items():
                threads.submit(replica.run, item, 0)
                wait_until(lambda i=item, p=phase: _phase(replica, i) == p, phase, every_s=0.01)
            before = replica.busy_s()
            ahead_s = 100.0
            after = replica.busy_s()
        finally:
            go.set()
    working, waiting = (item.item_id for item in items.values())
    assert after[waiting] == before[waiting]
    assert after[working] >= before[working] + 100


def test_the_time_of_a_shared_batch_is_shared(
    planned: Callable[..., WorkItem],
    weights_dir: Path,
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise four items that shared four seconds would seem to keep a GPU busy for sixteen."""
    replica = new_replica(weights_dir, prefix, "toy-lora", batch_size=4, adapter_mode="fused")
    items = [planned("toy-lora", **FILL, seed=n) for n in range(5)]
    now_s = 0
    monkeypatch.setattr("ace_tasks.replica.batching.time", SimpleNamespace(monotonic=lambda: now_s))
    at_work, go = threading.Event(), threading.Event()
    generate = AceModel.generate

    def four_seconds(model: AceModel, jobs: Any, *more: Any) -> Any:
        nonlocal now_s
        at_work.set()
        assert go.wait(limit_s())
        now_s += 4
        return generate(model, jobs, *more)

    monkeypatch.setattr(AceModel, "generate", four_seconds)
    with ThreadPoolExecutor(5) as threads:
        try:
            outcomes = [threads.submit(replica.run, items[0], 0)]
            assert at_work.wait(limit_s())
            outcomes += [threads.submit(replica.run, item, 0) for item in items[1:]]
            wait_until(lambda: len(replica._gpu._queue) == 4, "four in the queue", every_s=0.01)
        finally:
            go.set()
    assert all(isinstance(each.result(), Done) for each in outcomes)
    records = [record_of(store, prefix, each) for each in items]
    assert [each.sampling.batch_size for each in records] == [1, 4, 4, 4, 4]
    assert {(each.model.adapter_mode, each.resolved["adapter"]) for each in records} == {
        ("fused", "local_editing")
    }
    assert {each.model.speed for each in records} == {"exact"}
    assert [each.timings_s["generate"] for each in records] == [4, 1, 1, 1, 1]


@pytest.mark.thorough
def test_a_compiled_replica_says_so_and_its_items_are_the_same_ones(
    planned: Callable[..., WorkItem], weights_dir: Path, store: Store, prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    blocks = partial(compile_blocks, backend="eager")  # traced only: C++ would take a minute
    monkeypatch.setattr("ace_tasks.model.ace.compile_blocks", blocks)
    replica = new_replica(weights_dir, prefix, speed="compiled")
    item = planned(**FILL)
    assert isinstance(replica.run(item, 0), Done)
    record = record_of(store, prefix, item)
    assert (record.model.speed, record.item_id) == ("compiled", item.item_id)


def test_no_credential_is_in_what_a_replica_writes(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str, object_store: Any
) -> None:
    replica.run(planned(**FILL), 0)
    replica.run(planned(**FILL | {"mask": "in/ref.png"}), 0)
    for each in store.list(f"{prefix}/"):
        data = store.get(each.uri)
        assert not any(secret.encode() in data for secret in object_store.credentials.values())


def test_formats_follow_the_source_unless_set(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str, picture: Make
) -> None:
    store.put(join_uri(prefix, "in/photo.jpg"), picture(kind="JPEG"), "image/jpeg")
    for row, extension in (
        ({"image": "in/photo.jpg"}, ".jpg"),
        ({"image": "in/photo.jpg", "format": "webp"}, ".webp"),
        ({"image": "in/image.png", "format": "avif"}, ".avif"),
    ):
        done = replica.run(planned(task="edit", **row), 0)
        assert isinstance(done, Done)
        assert done.output_uri.endswith(extension)


# ---------------------------------------------------------------- candidates


def test_of_several_candidates_the_best_is_published(
    planned: Callable[..., WorkItem], weights_dir: Path, store: Store, prefix: str
) -> None:
    """Its seed alone makes the same picture, so that a person can have it again."""
    item = planned(**FILL, candidates=4)
    done = new_replica(weights_dir, prefix).run(item, 0)
    assert isinstance(done, Done), done
    record = record_of(store, prefix, item)
    candidates_record = record.candidates
    assert candidates_record is not None
    seeds = [each.seed for each in candidates_record.candidates]
    assert (candidates_record.count, seeds) == (4, [*candidate_seeds(item.resolved.seed, 4)])
    totals = [each.scores.total for each in candidates_record.candidates if each.scores]
    assert len(set(totals)) > 1
    assert candidates_record.chosen == totals.index(max(totals))
    assert record.scores == candidates_record.candidates[candidates_record.chosen].scores
    assert done.score == max(totals)
    assert record.sampling.seed == seeds[candidates_record.chosen]
    assert [each.uri for each in candidates_record.candidates] == [None] * 4

    alone = planned(**FILL, seed=seeds[candidates_record.chosen])
    again = new_replica(weights_dir, join_uri(prefix, "alone"), batch_size=2).run(alone, 0)
    assert isinstance(again, Done)
    other = record_of(store, join_uri(prefix, "alone"), alone)
    assert other.output.pixels_sha256 == record.output.pixels_sha256


def test_candidates_may_share_a_batch_and_all_be_kept(
    planned: Callable[..., WorkItem], weights_dir: Path, store: Store, prefix: str
) -> None:
    item = planned(**FILL, candidates=3)
    keep = {"review": ReviewSettings(keep_candidates=True), "batch_size": 3}
    replica = new_replica(weights_dir, prefix, **keep)
    done = replica.run(item, 0)
    assert isinstance(done, Done)
    record = record_of(store, prefix, item)
    candidates_record = record.candidates
    assert candidates_record is not None
    assert candidates_record.candidates[candidates_record.chosen].uri is None
    kept = {n: each.uri for n, each in enumerate(candidates_record.candidates) if each.uri}
    assert kept.keys() == {0, 1, 2} - {candidates_record.chosen}
    for number, uri in kept.items():
        data = store.get(uri)
        digest = hashlib.sha256(data).hexdigest()[:8]
        assert uri == f"{prefix}/candidates/row-1/{item.item_id[:16]}.{number}.{digest}.png"
        assert codec.decode(data, codec.ImageLimits()).size_px == (96, 64)
    again = new_replica(weights_dir, join_uri(prefix, "again"), **keep).run(item, 0)
    assert isinstance(again, Done)
    other = record_of(store, join_uri(prefix, "again"), item)
    assert other.output.pixels_sha256 == record.output.pixels_sha256


def test_a_candidate_that_is_no_picture_is_out_and_its_neighbours_stay(
    planned: Callable[..., WorkItem],
    replica: Replica,
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = AceModel.generate

    def only_the_second(model: AceModel, jobs: Any, *more: Any) -> Any:
        if jobs[0].seed != candidate_seeds(item.resolved.seed, 3)[1]:
            raise BadOutput("numbers that are no picture")
        return generate(model, jobs, *more)

    monkeypatch.setattr(AceModel, "generate", only_the_second)
    item = planned(**FILL, candidates=3)
    assert isinstance(replica.run(item, 0), Done)
    candidates_record = record_of(store, prefix, item).candidates
    assert candidates_record is not None
    assert candidates_record.chosen == 1
    assert [bool(each.error) for each in candidates_record.candidates] == [True, False, True]

    none = planned(**FILL, candidates=2, seed=5)
    failed = replica.run(none, 0)
    assert isinstance(failed, Failed)
    assert failed.code == "bad_output"


def test_what_fails_leaves_nothing_of_it_in_the_queue(
    planned: Callable[..., WorkItem], replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise fifteen passes would be paid for a picture that nobody waits for."""
    passes: list[int] = []

    def fail(model: AceModel, jobs: Any, *more: Any) -> Any:
        passes.append(jobs[0].seed)
        if len(passes) > 1:
            wait_until(lambda: not replica._gpu._queue, "an empty queue", every_s=0.01)
        raise RuntimeError("no memory")

    monkeypatch.setattr(AceModel, "generate", fail)
    failed = replica.run(planned(**FILL, candidates=16), 0)
    assert isinstance(failed, Failed)
    assert failed.code == "internal_error"
    assert len(passes) <= 2
    assert not replica._gpu._queue


# ---------------------------------------------------------------- held back


def black(model: AceModel, jobs: Any, *more: Any) -> list[Any]:
    return [np.zeros((*job.lcu.mask_1HW.shape[1:], 3), np.uint8) for job in jobs]


def test_a_black_picture_is_held_back_and_never_published(
    planned: Callable[..., WorkItem],
    replica: Replica,
    store: Store,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AceModel, "generate", black)
    item = planned(**FILL)
    failed = replica.run(item, 0)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.transient) == ("needs_review", False)
    assert "blank" in failed.message
    assert not [*store.list(join_uri(prefix, "images/")), *store.list(join_uri(prefix, "records/"))]
    record, picture = sorted(each.uri for each in store.list(join_uri(prefix, "review/")))
    would_be = Record.model_validate_json(store.get(record))
    data = store.get(picture)
    assert hashlib.sha256(data).hexdigest() == would_be.output.sha256
    assert would_be.output.uri.startswith(join_uri(prefix, "images/row-1/"))
    assert would_be.review is not None
    assert would_be.review.reasons == (failed.message,)


def test_a_floor_of_the_run_holds_back_what_is_below_it(
    planned: Callable[..., WorkItem], weights_dir: Path, prefix: str
) -> None:
    item = planned(**FILL)
    strict = new_replica(weights_dir, prefix, review=ReviewSettings(below=1)).run(item, 0)
    assert isinstance(strict, Failed)
    assert strict.code == "needs_review"
    assert "score" in strict.message
    assert isinstance(new_replica(weights_dir, prefix).run(item, 0), Done)
