"""Test which picture a finished item has, on a real store. If these break, a shop publishes another
product's picture, or a nightly run of a million rows reads a million records."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ace_tasks.plan.item_ids import ItemIds, MarkedIds
from ace_tasks.provenance.keys import record_key, results_key
from ace_tasks.provenance.record import Record
from ace_tasks.replica.picture_file import File
from ace_tasks.replica.publisher import Publisher
from ace_tasks.runs import published
from ace_tasks.runs.published import FinishedPicture, finished_pictures
from ace_tasks.runs.results import Result, ResultsWriter
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri, split_uri
from tests.runs.test_review import would_be


@pytest.fixture
def output(prefix: str) -> str:
    return join_uri(prefix, "out")


@pytest.fixture
def made(store: Store, output: str, planned: Callable[..., WorkItem]) -> list[Record]:
    """Publish the pictures of six items."""
    item = planned(task="edit", image="in/image.png")
    return [
        publish(store, output, item.model_copy(update={"item_id": digest(n), "row_id": f"row-{n}"}))
        for n in range(6)
    ]


def digest(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def publish(store: Store, output: str, item: WorkItem) -> Record:
    data = f"the picture of {item.item_id}".encode()
    return Publisher(store, output).publish(would_be(output, item, data), File("png", data))


def leave_results(
    store: Store, output: str, run_id: str, pictures: dict[str, FinishedPicture], folder: Path
) -> None:
    """Leave a run's results that name these pictures, by item."""
    with ResultsWriter(folder / "r.parquet", folder / "r.csv") as writer:
        for line, (item_id, picture) in enumerate(pictures.items()):
            writer.write(
                Result(line, f"row-{line}", "edit", "done", item_id, picture.uri, picture.sha256)
            )
    uri = join_uri(output, results_key(run_id, "parquet"))
    store.upload(folder / "r.parquet", uri, "application/vnd.apache.parquet")


def right(made: list[Record]) -> dict[str, FinishedPicture]:
    return {each.item_id: FinishedPicture(each.output.uri, each.output.sha256) for each in made}


def every(ids: list[str]) -> MarkedIds:
    """Return the ids, all marked, among others that are not."""
    others = [digest(n) for n in range(-3, 0)]
    known = ItemIds([*ids, *others])
    return MarkedIds(known, known.marked(ids))


def found(store: Store, output: str, made: list[Record], folder: Path) -> dict[str, Any]:
    ids = [each.item_id for each in made]
    with finished_pictures(store, output, every(ids), folder) as finished:
        return {item_id: finished.find(item_id) for item_id in ids}


@contextlib.contextmanager
def reads(store: Store) -> Iterator[list[str]]:
    """Note the key of every object that is read."""
    keys: list[str] = []

    def noting(method: Any) -> Any:
        def read(uri: str, *arguments: Any, **more: Any) -> Any:
            keys.append(split_uri(uri)[1])
            return method(uri, *arguments, **more)

        return read

    with (
        mock.patch.object(store, "get_version", noting(store.get_version)),
        mock.patch.object(store, "download", noting(store.download)),
    ):
        yield keys


def records_read(keys: list[str]) -> list[str]:
    return [key.rpartition("/")[2].removesuffix(".json") for key in keys if "/records/" in key]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six items count as many, and their records as large beside an almost empty table."""
    monkeypatch.setattr(published, "_READ_AT_MOST", 0)
    monkeypatch.setattr(published, "_RECORD_BYTES", 100_000)


def test_the_records_of_few_items_are_read(
    store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    with reads(store) as keys:
        assert found(store, output, made, tmp_path) == right(made)
    assert sorted(records_read(keys)) == sorted(each.item_id for each in made)


@pytest.mark.usefixtures("many")
def test_no_record_is_read_where_earlier_results_know(
    store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    """Two runs know five of six items between them. Only the sixth has its record read."""
    leave_results(store, output, "run-1", dict([*right(made).items()][:4]), tmp_path)
    leave_results(store, output, "run-2", dict([*right(made).items()][3:5]), tmp_path)
    with reads(store) as keys:
        assert found(store, output, made, tmp_path) == right(made)
    assert records_read(keys) == [made[5].item_id]
    assert len([key for key in keys if key.endswith("results.parquet")]) == 2


@pytest.mark.usefixtures("many")
def test_results_are_read_until_all_is_known(
    store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    for number in range(4):
        leave_results(store, output, f"run-{number}", right(made), tmp_path)
    with reads(store) as keys:
        assert found(store, output, made, tmp_path) == right(made)
    assert len(keys) == 1


@pytest.mark.usefixtures("many")
def test_results_that_cost_more_than_the_records_are_left(
    store: Store, output: str, made: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_results(store, output, "run-1", right(made), tmp_path)
    monkeypatch.setattr(published, "_RECORD_BYTES", 1)
    with reads(store) as keys:
        assert found(store, output, made, tmp_path) == right(made)
    assert len(keys) == len(records_read(keys)) == 6


def stray(of: Record, data: bytes) -> str:
    """Return the URI of another picture of the same item, named by its own hash."""
    place = of.output.uri.rpartition("/")[0]
    return f"{place}/{of.item_id[:16]}.{hashlib.sha256(data).hexdigest()[:8]}.png"


def leave_a_losers_picture(store: Store, first: Record) -> None:
    store.put(stray(first, b"a loser's"), b"a loser's", "image/png")


def put_the_shops_own_files_there(store: Store, first: Record) -> None:
    place, _, name = first.output.uri.rpartition("/")
    for each in (
        f"{place}/mug.png",
        f"{place}/deeper/{name}",
        f"{place}/{name}.bak",
        f"{place}/{first.item_id[:16]}.00000000.png",
    ):
        store.put(each, b"the shop's", "image/png")


def put_a_strange_file_in_the_pictures_place(store: Store, first: Record) -> None:
    """The item's only listed picture, and not the one that its record names."""
    store.delete(first.output.uri)
    store.put(stray(first, b"a stranger's"), b"a stranger's", "image/png")


LEFT: dict[str, Callable[[Store, Record], None]] = {
    "a loser's picture after a crash": leave_a_losers_picture,
    "the shop's own files": put_the_shops_own_files_there,
    "a strange file where the picture was": put_a_strange_file_in_the_pictures_place,
}


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("left", LEFT)
def test_only_the_picture_of_the_record_is_named(
    left: str, store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    leave_results(store, output, "run-1", right(made), tmp_path)
    LEFT[left](store, made[0])
    with reads(store) as keys:
        assert found(store, output, made, tmp_path) == right(made)
    assert records_read(keys) == [made[0].item_id]  # that one is ambiguous


@pytest.mark.usefixtures("many")
def test_results_that_went_stale_are_not_believed(
    store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    """Record and picture were deleted by hand, and another picture was made, whose run was cut."""
    stale = right(made)
    first = made[0]
    stale[first.item_id] = FinishedPicture(stray(first, b"old"), hashlib.sha256(b"old").hexdigest())
    leave_results(store, output, "run-1", stale, tmp_path)
    assert found(store, output, made, tmp_path) == right(made)
    store.put(stray(first, b"old"), b"old", "image/png")
    assert found(store, output, made, tmp_path) == right(made)


def test_an_item_whose_record_is_gone_or_broken_or_another_s_names_none(
    store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    gone, broken, other = (join_uri(output, record_key(each.item_id)) for each in made[:3])
    store.delete(gone)
    store.put(broken, b"no JSON", "application/json")
    store.put(other, made[3].to_json(), "application/json")
    named = found(store, output, made, tmp_path)
    assert [named[each.item_id] for each in made[:3]] == [None, None, None]
    assert {each.item_id: named[each.item_id] for each in made[3:]} == right(made[3:])


def moved(store: Store, output: str, to: str) -> str:
    for each in store.list(f"{output}/"):
        store.put(f"{to}{each.uri.removeprefix(output)}", store.get(each.uri), "x/x")
        store.delete(each.uri)
    return to


@pytest.mark.parametrize("at_most", [2000, 0], ids=["few", "many"])
def test_a_moved_output_names_its_pictures_where_they_are_now(
    at_most: int,
    store: Store,
    prefix: str,
    output: str,
    made: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records and earlier results name the old place."""
    monkeypatch.setattr(published, "_READ_AT_MOST", at_most)
    monkeypatch.setattr(published, "_RECORD_BYTES", 100_000)
    leave_results(store, output, "run-1", dict([*right(made).items()][:3]), tmp_path)
    there = moved(store, output, f"{prefix}/elsewhere/edited")
    with reads(store) as keys:
        named = found(store, there, made, tmp_path)
    assert named == {
        item_id: FinishedPicture(there + each.uri.removeprefix(output), each.sha256)
        for item_id, each in right(made).items()
    }
    assert len(records_read(keys)) == (6 if at_most else 3)


def test_a_picture_that_was_not_moved_along_is_named_where_it_is(
    store: Store, prefix: str, output: str, made: list[Record], tmp_path: Path
) -> None:
    for each in store.list(f"{output}/records/"):
        store.put(f"{prefix}/new{each.uri.removeprefix(output)}", store.get(each.uri), "x/x")
    assert found(store, f"{prefix}/new", made, tmp_path) == right(made)


@pytest.mark.usefixtures("many")
def test_results_that_cannot_be_read_stop_nothing(
    store: Store, output: str, made: list[Record], tmp_path: Path
) -> None:
    store.put(join_uri(output, "runs/x/results.parquet"), b"PAR1 no table PAR1", "x/x")
    assert found(store, output, made, tmp_path) == right(made)
