"""Test pictures that wait for a person, on a real store. If these break, a picture that nobody
accepted is published, one that was accepted is lost, or a reviewer cut short leaves half a
decision."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ace_tasks.errors import BadRecord, SettingsError, StoreUnavailable
from ace_tasks.provenance.keys import failure_key, image_key, record_key
from ace_tasks.provenance.orphans import orphans
from ace_tasks.provenance.outcomes import Failed, write_failure
from ace_tasks.provenance.record import (
    CandidateRecord,
    CandidatesRecord,
    Failure,
    Record,
    ReviewRecord,
    Scores,
)
from ace_tasks.replica.picture_file import File
from ace_tasks.replica.publisher import Publisher
from ace_tasks.runs.review import Review
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri

REASON = "the repainted part is blank"


@pytest.fixture
def item(planned: Callable[..., WorkItem]) -> WorkItem:
    return planned(task="edit", image="in/image.png")


@pytest.fixture
def held(store: Store, prefix: str, item: WorkItem) -> Record:
    """Hold a picture for review, as a replica leaves it."""
    return hold(store, prefix, item, b"picture")


def hold(store: Store, output: str, item: WorkItem, data: bytes) -> Record:
    record, file = would_be(output, item, data), File("png", data)
    Publisher(store, output).hold(record, file)
    failed = Failed(
        item_id=item.item_id, code="needs_review", message=REASON, transient=False, attempts=1
    )
    write_failure(store, output, item, failed, "run-1")
    return record


def would_be(output: str, item: WorkItem, data: bytes) -> Record:
    sha256 = hashlib.sha256(data).hexdigest()
    picture = join_uri(output, image_key(item.row_id, item.item_id, sha256, "png"))
    return Record.model_validate(
        {
            "row_id": item.row_id,
            "item_id": item.item_id,
            "spec": {},
            "resolved": {},
            "sources": {},
            "output": {
                "uri": picture,
                "sha256": sha256,
                "pixels_sha256": "0",
                "format": "png",
                "size_px": (1, 1),
                "size_bytes": len(data),
            },
            "model": dict.fromkeys(
                ("variant", "route", "base", "encoders", "adapter", "dtype", "device"), "x"
            ),
            "sampling": {
                "sampler": "s",
                "steps": 1,
                "guidance": 1,
                "seed": 1,
                "geometry": "g",
                "canvas_px": (1, 1),
                "tokens": 1,
            },
            "review": ReviewRecord(reasons=(REASON,)),
            "run": {
                "run_id": "run-1",
                "shard": 0,
                "attempt": sha256,
                "replica": "r",
                "code_version": "0",
                "versions": {},
            },
            "timings_s": {},
        }
    )


def keys(store: Store, prefix: str, *kinds: str) -> list[str]:
    found = [each.uri.removeprefix(f"{prefix}/") for each in store.list(f"{prefix}/")]
    return [key for key in found if key.partition("/")[0] in (kinds or ("review", "images"))]


def record_of(store: Store, prefix: str, item: WorkItem) -> Record:
    return Record.model_validate_json(store.get(join_uri(prefix, record_key(item.item_id))))


def failure_of(store: Store, prefix: str, item: WorkItem) -> Failure:
    return Failure.model_validate_json(store.get(join_uri(prefix, failure_key(item.item_id))))


def test_what_waits_is_shown_with_its_reasons(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    found = Review(store, prefix, "flow-1").look(item.item_id)
    assert found.standing == "waiting"
    assert found.record is not None
    assert found.record.review == ReviewRecord(reasons=(REASON,))
    assert store.get(str(found.picture)) == b"picture"
    assert keys(store, prefix, "images", "records") == []


def test_promoted_it_is_a_picture_like_any_other(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    assert Review(store, prefix, "flow-1").promote(item.item_id).standing == "published"
    record = record_of(store, prefix, item)
    assert record.output == held.output
    assert store.get(record.output.uri) == b"picture"
    assert record.review is not None
    assert (record.review.reasons, record.review.promoted_by) == ((REASON,), "flow-1")
    assert keys(store, prefix, "review") == []
    assert [*orphans(store, prefix, datetime.now(UTC) + timedelta(hours=1))] == []


def test_discarded_it_leaves_and_says_so(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    assert Review(store, prefix, "flow-1").discard(item.item_id).standing == "discarded"
    assert keys(store, prefix, "review", "images", "records") == []
    failure = failure_of(store, prefix, item)
    assert (failure.code, failure.transient) == ("discarded", False)
    assert REASON in failure.message
    assert "flow-1" in failure.message


@pytest.mark.parametrize("decision", ["promote", "discard"])
def test_a_decision_twice_is_a_decision_once(
    store: Store, prefix: str, item: WorkItem, held: Record, decision: str
) -> None:
    review = Review(store, prefix, "flow-1")
    first = getattr(review, decision)(item.item_id)
    before = keys(store, prefix, "review", "images", "records", "failures")
    assert getattr(Review(store, prefix, "flow-2"), decision)(item.item_id) == first
    assert keys(store, prefix, "review", "images", "records", "failures") == before


class Cut:
    """A store whose process ends at its n-th write."""

    def __init__(self, store: Store, writes: int):
        self._store = store
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        really = getattr(self._store, name)
        if name not in {"put", "put_if_absent", "delete"}:
            return really

        def write(uri: str, *rest: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise StoreUnavailable(uri, "cut")
            return really(uri, *rest)

        return write


@pytest.mark.parametrize(
    ("decision", "standing"), [("promote", "published"), ("discard", "discarded")]
)
def test_cut_anywhere_the_same_decision_completes_it(
    store: Store, prefix: str, planned: Callable[..., WorkItem], decision: str, standing: str
) -> None:
    cut_at = 0
    while True:
        item = planned(task="edit", image="in/image.png", seed=cut_at, id=f"row-{cut_at}")
        hold(store, prefix, item, b"picture")
        review = Review(Cut(store, cut_at), prefix, "flow-1")  # type: ignore[arg-type]
        try:
            getattr(review, decision)(item.item_id)
            break
        except StoreUnavailable:
            pass
        waiting = [key for key in keys(store, prefix, "review") if key.endswith(".json")]
        assert waiting, "what is half done must be found again"
        assert getattr(Review(store, prefix, "flow-2"), decision)(item.item_id).standing == standing
        assert keys(store, prefix, "review") == []
        cut_at += 1
    assert cut_at == {"promote": 4, "discard": 3}[decision]  # every write was a place to be cut at
    pictures = keys(store, prefix, "images")
    assert len(pictures) == (cut_at + 1 if decision == "promote" else 0)


def test_two_reviewers_at_once_do_no_harm(
    store: Store, prefix: str, planned: Callable[..., WorkItem]
) -> None:
    """It is published whole, or discarded whole, whatever they decide."""
    items = [planned(task="edit", image="in/image.png", seed=n, id=f"row-{n}") for n in range(6)]
    for each in items:
        hold(store, prefix, each, b"picture")

    def decide(decision: str) -> None:
        review = Review(store, prefix, decision)
        for each in items:
            getattr(review, decision)(each.item_id)

    threads = [threading.Thread(target=decide, args=(d,)) for d in ("promote", "discard")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys(store, prefix, "review") == []
    for each in items:
        standing = Review(store, prefix, "x").look(each.item_id).standing
        if standing == "published":
            assert store.get(record_of(store, prefix, each).output.uri) == b"picture"
        else:
            assert standing == "discarded"


def test_what_is_published_stays_published(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    """Another run with another floor published it while it waited."""
    other = would_be(prefix, item, b"other")
    Publisher(store, prefix).publish(other, File("png", b"other"))
    review = Review(store, prefix, "flow-1")
    assert review.discard(item.item_id).standing == "published"
    assert review.promote(item.item_id).standing == "published"
    assert record_of(store, prefix, item).output.uri == other.output.uri
    assert keys(store, prefix) == [other.output.uri.removeprefix(f"{prefix}/")]


def test_an_item_that_was_tried_again_since_does_not_wait(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    failed = Failed(
        item_id=item.item_id, code="bad_image", message="m", transient=False, attempts=1
    )
    write_failure(store, prefix, item, failed, "run-2")
    review = Review(store, prefix, "flow-1")
    assert review.promote(item.item_id).standing == "gone"
    assert Review(store, join_uri(prefix, "else"), "f").look(item.item_id).standing == "gone"


def test_the_sweep_leaves_what_waits_and_what_records_name(
    store: Store, prefix: str, item: WorkItem
) -> None:
    publisher = Publisher(store, prefix)
    kept, lost = (publisher.store_candidate(item, n, File("png", b"x%d" % n)) for n in (1, 2))
    tried = (CandidateRecord(seed=0, scores=Scores(total=1)), CandidateRecord(seed=1, uri=kept))
    named = CandidatesRecord(count=2, chosen=0, candidates=tried)
    record = would_be(prefix, item, b"picture").model_copy(update={"candidates": named})
    later = datetime.now(UTC) + timedelta(hours=1)

    def found() -> list[str]:
        return [each.uri for each in orphans(store, prefix, later)]

    store.put(join_uri(prefix, record_key("0" * 64)), b"{}", "application/json")
    assert found() == [kept, lost]
    publisher.hold(record, File("png", b"picture"))
    assert found() == [lost]
    publisher.publish(record, File("png", b"picture"))
    assert found() == [lost]


def test_in_a_moved_output_a_picture_is_published_where_it_waits(
    store: Store, prefix: str, item: WorkItem
) -> None:
    before, now = join_uri(prefix, "before"), join_uri(prefix, "now")
    hold(store, before, item, b"picture")
    for each in list(store.list(f"{before}/")):
        store.put(each.uri.replace(before, now), store.get(each.uri), "text/plain")
    assert Review(store, now, "flow-1").promote(item.item_id).standing == "published"
    record = record_of(store, now, item)
    assert record.output.uri.startswith(f"{now}/images/")
    assert store.get(record.output.uri) == b"picture"
    assert keys(store, before, "images", "records") == []


def test_a_picture_that_was_replaced_while_it_waited_is_not_published(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    review = Review(store, prefix, "flow-1")
    waiting = str(review.look(item.item_id).picture)
    store.put(waiting, b"another one", "image/png")
    with pytest.raises(SettingsError, match="accepted: the picture that was held"):
        review.promote(item.item_id)
    assert keys(store, prefix, "images", "records") == []
    store.put(waiting, b"picture", "image/png")
    assert review.promote(item.item_id).standing == "published"


def test_a_promoted_picture_that_a_sweep_takes_is_written_again(
    store: Store, prefix: str, item: WorkItem, held: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before its record is there."""
    put_if_absent = store.put_if_absent

    def sweep_meanwhile(uri: str, data: bytes, kind: str) -> bool:
        store.delete(held.output.uri)
        return put_if_absent(uri, data, kind)

    monkeypatch.setattr(store, "put_if_absent", sweep_meanwhile)
    assert Review(store, prefix, "flow-1").promote(item.item_id).standing == "published"
    assert store.get(held.output.uri) == b"picture"


@pytest.mark.parametrize("theirs", [b"picture", b"another one"], ids=["same", "another"])
def test_what_another_run_publishes_at_that_moment_stands(
    store: Store,
    prefix: str,
    item: WorkItem,
    held: Record,
    theirs: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The record that came first names the one picture that is left."""
    other = would_be(prefix, item, theirs)
    put_if_absent = store.put_if_absent

    def publish_meanwhile(uri: str, data: bytes, kind: str) -> bool:
        assert put_if_absent(uri, other.to_json(), kind)
        if theirs == b"picture":  # a sweep took it just before
            store.delete(other.output.uri)
        else:
            store.put(other.output.uri, theirs, "image/png")
        return put_if_absent(uri, data, kind)

    monkeypatch.setattr(store, "put_if_absent", publish_meanwhile)
    assert Review(store, prefix, "flow-1").promote(item.item_id).standing == "published"
    assert record_of(store, prefix, item).run.attempt == other.run.attempt
    assert record_of(store, prefix, item).review == other.review  # nobody promoted theirs
    assert keys(store, prefix) == [other.output.uri.removeprefix(f"{prefix}/")]
    assert store.get(other.output.uri) == theirs


def test_a_picture_that_somebody_else_just_took_is_not_published(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    review = Review(store, prefix, "flow-1")
    store.delete(str(review.look(item.item_id).picture))
    assert review.promote(item.item_id).standing == "gone"
    assert keys(store, prefix, "review", "images", "records") == []


def test_a_file_in_the_record_s_place_is_named_and_nothing_is_decided(
    store: Store, prefix: str, item: WorkItem, held: Record
) -> None:
    place = join_uri(prefix, record_key(item.item_id))
    store.put(place, b'{"shop": 1}', "application/json")
    before = keys(store, prefix, "review", "images", "failures")
    for decide in (Review(store, prefix, "flow-1").promote, Review(store, prefix, "f").discard):
        with pytest.raises(BadRecord, match=place):
            decide(item.item_id)
    assert keys(store, prefix, "review", "images", "failures") == before
    assert store.get(place) == b'{"shop": 1}'
