"""What may be deleted under an output, on a real store. If these break, a shop loses its own
pictures to a sweep, or a record stands whose picture is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.catalog.files import Row, to_specs
from ace_tasks.errors import OutputRefused, SettingsError
from ace_tasks.model.variants import find_variant
from ace_tasks.plan.identify import refuse_unproved
from ace_tasks.plan.plan_file import Basis, PlanFiles, build_plan
from ace_tasks.provenance.keys import image_key, plan_key
from ace_tasks.provenance.orphans import delete_orphan, orphans
from ace_tasks.provenance.record import CandidateRecord, CandidatesRecord, Record
from ace_tasks.replica.picture_file import File
from ace_tasks.replica.publisher import Publisher
from ace_tasks.runs.sweep import sweep
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.runs.test_review import hold, would_be
from tests.support.patience import wait_until

NOW = 0.0  # hours: however young
ITEM = "0123456789abcdef"


@pytest.fixture
def item(planned: Callable[..., WorkItem]) -> WorkItem:
    return planned(task="edit", image="in/image.png")


@pytest.fixture
def output(store: Store, prefix: str, item: WorkItem) -> str:
    """An output with one published picture: record and picture."""
    output = join_uri(prefix, "out")
    publish(store, output, item, b"published")
    return output


def publish(store: Store, output: str, item: WorkItem, data: bytes) -> Record:
    return Publisher(store, output).publish(would_be(output, item, data), File("png", data))


def leave(store: Store, output: str, data: bytes, row: str = "row", item_id: str = ITEM) -> str:
    """Leave a picture as a crash before its record does."""
    sha256 = hashlib.sha256(data).hexdigest()
    uri = join_uri(output, image_key(row, item_id, sha256, "png"))
    store.put(uri, data, "image/png")
    return uri


def objects(store: Store, place: str) -> dict[str, bytes]:
    return {each.uri: store.get(each.uri) for each in store.list(place)}


def test_a_picture_without_a_record_is_listed_and_deleted_only_when_asked(
    store: Store, output: str
) -> None:
    lost = leave(store, output, b"lost")
    before = objects(store, output)
    assert [(each.uri, each.is_deleted) for each in sweep(store, output, NOW, delete=False)] == [
        (lost, False)
    ]
    assert objects(store, output) == before
    assert [(each.uri, each.is_deleted) for each in sweep(store, output, NOW, delete=True)] == [
        (lost, True)
    ]
    del before[lost]
    assert objects(store, output) == before


def test_a_young_picture_may_still_get_its_record(store: Store, output: str) -> None:
    leave(store, output, b"young")
    assert [*sweep(store, output, 1.0, delete=True)] == []


FOREIGN = {
    "a shop's picture": "images/mug.jpg",
    "a shop's folder": "images/hats/hat.png",
    "another kind of file": "images/logo.svg",
    "a document": "candidates/cv-anna.pdf",
    "a name with a hash that is not its content's": f"images/mug/{ITEM}.01234567.png",
    "a candidate's name with another content": f"candidates/mug/{ITEM}.2.01234567.webp",
    "a deeper place": f"images/shop/mug/{ITEM}.01234567.png",
    "upper case": f"images/mug/{ITEM.upper()}.01234567.png",
    "an ending that is not ours": f"images/mug/{ITEM}.01234567.tiff",
    "a name that goes on": f"images/mug/{ITEM}.01234567.png.bak",
    "a picture that waits": f"review/mug/{ITEM}.01234567.png",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_proved_to_be_ours_is_never_touched(
    store: Store, output: str, name: str
) -> None:
    uri = join_uri(output, FOREIGN[name])
    store.put(uri, b"the shop's", "image/png")
    assert [*sweep(store, output, NOW, delete=True)] == []
    assert store.get(uri) == b"the shop's"


@pytest.mark.parametrize("key", ["images/hero.jpg", f"images/row/{ITEM}.01234567.png", "records/a"])
def test_a_place_in_which_no_run_has_written_is_refused(
    store: Store, prefix: str, key: str
) -> None:
    store.put(f"{prefix}/shop/{key}", b"the shop's", "image/png")
    with pytest.raises(OutputRefused, match="a place in which runs have written"):
        [*sweep(store, f"{prefix}/shop", NOW, delete=True)]
    assert store.get(f"{prefix}/shop/{key}") == b"the shop's"


def test_a_whole_bucket_that_a_typo_named_is_refused(store: Store) -> None:
    store.create_bucket("shop9")
    store.put("s3://shop9/images/hero.jpg", b"the shop's", "image/jpeg")
    with pytest.raises(OutputRefused):
        [*sweep(store, "s3://shop9", NOW, delete=True)]
    assert store.get("s3://shop9/images/hero.jpg") == b"the shop's"


def test_a_record_that_cannot_be_read_keeps_its_pictures(store: Store, output: str) -> None:
    leave(store, output, b"whose?")
    store.put(join_uri(output, f"records/01/{ITEM}{'0' * 48}.json"), b"{", "application/json")
    assert [*sweep(store, output, NOW, delete=True)] == []


def test_what_waits_for_a_person_stays(store: Store, output: str, item: WorkItem) -> None:
    hold(store, output, item, b"waits")
    assert [*sweep(store, output, NOW, delete=True)] == []


def wait_until_the_clock_of_objects_moves(store: Store, uri: str) -> None:
    """The times of objects are whole seconds."""
    modified = store.head(uri).modified
    assert modified is not None
    wait_until(lambda: datetime.now(UTC) > modified + timedelta(seconds=1.1), "the next second")


def planned_run(store: Store, output: str, item: WorkItem, scratch: Path) -> str:
    """Write the plan of a run over that item's row; returns the run's id."""
    specs = to_specs([Row(1, item.spec.model_dump(exclude_none=True))], "s3://tests/c.jsonl", None)
    path = scratch / "plan.parquet"
    model = find_variant("toy").identity()
    build_plan(specs, Basis(model), store, PlanFiles(path, scratch / "rejects.jsonl"))
    store.upload(path, join_uri(output, plan_key("run-1")), "application/octet-stream")
    return "run-1"


def test_a_cancelled_runs_sweep_takes_only_what_that_run_can_have_written(
    store: Store, prefix: str, item: WorkItem, tmp_path: Path
) -> None:
    """Neither an orphan of another run, nor one of its own item from before it was planned."""
    output = join_uri(prefix, "out")
    earlier = leave(store, output, b"earlier", item.row_id, item.item_id)
    wait_until_the_clock_of_objects_moves(store, earlier)
    run = planned_run(store, output, item, tmp_path)
    others = leave(store, output, b"another's")
    mine = leave(store, output, b"mine", item.row_id, item.item_id)
    wait_until_the_clock_of_objects_moves(store, mine)
    assert [each.uri for each in sweep(store, output, NOW, run, delete=True)] == [mine]
    assert {earlier, others} <= objects(store, output).keys()
    with pytest.raises(SettingsError, match="run: accepted: the id of a run with a plan under"):
        [*sweep(store, output, NOW, "no-such-run", delete=True)]


def test_a_record_that_comes_while_its_picture_is_deleted_has_its_picture(
    store: Store, output: str, item: WorkItem
) -> None:
    """The record before our last look: the sweep restores. After it: the publisher does."""
    second = item.__class__.model_validate(item.model_dump() | {"item_id": "f" * 64})
    record = would_be(output, second, b"published late")
    store.put(record.output.uri, b"published late", "image/png")
    (orphan,) = orphans(store, output, datetime.now(UTC) + timedelta(hours=1))
    publish(store, output, second, b"published late")
    assert not delete_orphan(store, output, orphan)
    assert store.get(record.output.uri) == b"published late"


def test_a_publisher_finds_its_picture_deleted_and_writes_it_again(
    store: Store, output: str, item: WorkItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = item.__class__.model_validate(item.model_dump() | {"item_id": "e" * 64})
    put_if_absent = store.put_if_absent

    def sweep_meanwhile(uri: str, data: bytes, kind: str) -> bool:
        assert [each.is_deleted for each in sweep(store, output, -1.0, delete=True)] == [True]
        return put_if_absent(uri, data, kind)

    monkeypatch.setattr(store, "put_if_absent", sweep_meanwhile)
    record = publish(store, output, second, b"swept away")
    assert store.get(record.output.uri) == b"swept away"


@pytest.mark.parametrize("how", ["publish", "hold"])
def test_a_kept_candidate_that_a_sweep_takes_is_written_again(
    store: Store, output: str, item: WorkItem, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It may be an old one of an earlier try, that no record names just now."""
    second = item.__class__.model_validate(item.model_dump() | {"item_id": "d" * 64})
    publisher, kept = Publisher(store, output), File("png", b"kept")
    uri = publisher.store_candidate(second, 1, kept)
    candidates = CandidatesRecord(
        count=2, chosen=0, candidates=(CandidateRecord(seed=1), CandidateRecord(seed=2, uri=uri))
    )
    record = would_be(output, second, b"chosen").model_copy(update={"candidates": candidates})
    name = "put" if how == "hold" else "put_if_absent"
    write = getattr(store, name)

    def sweep_meanwhile(written: str, data: bytes, kind: str) -> Any:
        if written.endswith(".json"):
            swept = {each.uri for each in sweep(store, output, -1.0, delete=True)}
            assert uri in swept
        return write(written, data, kind)

    with monkeypatch.context() as patch:
        patch.setattr(store, name, sweep_meanwhile)
        getattr(publisher, how)(record, File("png", b"chosen"), {uri: kept})
    assert store.get(uri) == b"kept"
    assert [*sweep(store, output, -1.0, delete=True)] == []


def test_of_a_record_from_before_a_move_the_picture_stays(
    store: Store, prefix: str, item: WorkItem
) -> None:
    """Somebody copies an output while a run makes the same there: record and picture are ours."""
    before, now = join_uri(prefix, "before"), join_uri(prefix, "now")
    publish(store, before, item, b"picture")
    for each in list(store.list(f"{before}/")):
        store.put(each.uri.replace(before, now), store.get(each.uri), "text/plain")
    publish(store, now, item, b"picture")
    assert store.get(would_be(now, item, b"picture").output.uri) == b"picture"


def rows(*images: str) -> Any:
    found = [
        Row(number, {"id": f"r{number}", "task": "edit", "image": image, "prompt": "p"})
        for number, image in enumerate(images, start=1)
    ]
    return to_specs(found, "s3://tests/c.jsonl", None)


@pytest.mark.parametrize("kind", ["images", "candidates", "review"])
def test_a_source_among_the_outputs_pictures_is_refused(
    store: Store, output: str, kind: str
) -> None:
    uri = join_uri(output, f"{kind}/mug.jpg")
    store.put(uri, b"the shop's", "image/png")
    with pytest.raises(OutputRefused, match=f"line 1 names .*{kind}/mug.jpg"):
        [*refuse_unproved(rows(uri), store, output)]


def test_a_picture_that_a_record_names_may_be_edited_again(
    store: Store, output: str, item: WorkItem
) -> None:
    made = would_be(output, item, b"published").output.uri
    elsewhere = "s3://tests/images/mug.jpg"
    assert len([*refuse_unproved(rows(made, elsewhere), store, output)]) == 2
