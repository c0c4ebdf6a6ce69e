"""Test what is decided about each picture of a feed, on a real store. If these break, a shop imports a
link that leads nowhere, or a list that keeps a model's picture from a marketplace."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ace_tasks.catalog.sources.links import Links
from ace_tasks.provenance.keys import catalog_key, record_key
from ace_tasks.provenance.record import Record
from ace_tasks.replica.picture_file import File
from ace_tasks.replica.publisher import Publisher
from ace_tasks.runs.feed_note import FeedNote, write_note
from ace_tasks.runs.feed_out import FeedAccount, FeedOut, FeedRequest
from ace_tasks.runs.results import Result
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.runs.test_review import would_be
from tests.runs.test_take_out import RUN, leave, row

SHOP = "https://c.test"


class Shop:
    """A feed on the store, and the run that edited its pictures. Product `n` shows `n.png`."""

    def __init__(self, store: Store, prefix: str, item: WorkItem, folder: Path):
        self.store, self.prefix, self.item, self.folder = store, prefix, item, folder
        self.output, self.feed = f"{prefix}/out", f"{prefix}/feed.csv"
        self.to = folder / "new"

    def publish(self, name: str, task: str = "edit") -> Record:
        """Publish the picture that the row `name` asked for."""
        item_id, data = hashlib.sha256(name.encode()).hexdigest(), name.encode()
        of = self.item.model_copy(update={"item_id": item_id, "row_id": name})
        record = would_be(self.output, of, data).model_copy(update={"spec": {"task": task}})
        return Publisher(self.store, self.output).publish(record, File("png", data))

    def leave_run(self, feed: str, results: list[Result], picture: str = "{}.png") -> None:
        """Leave a feed, and a run whose rows are named as its products."""
        folder = Links.named(SHOP, self.prefix)
        assert folder is not None
        self.store.put(self.feed, feed.encode(), "text/csv")
        made = [
            {"id": each.row_id, "task": "edit", "prompt": "p"}
            | {"image": f"{self.prefix}/{picture.format(each.row_id)}"}
            for each in results
        ]
        catalog = join_uri(self.output, catalog_key(RUN))
        self.store.put(catalog, "\n".join(map(json.dumps, made)).encode(), "x/x")
        leave(self.store, self.output, results, self.folder)
        sha256 = hashlib.sha256(feed.encode()).hexdigest()
        note = FeedNote(uri=self.feed, sha256=sha256, links_from=SHOP, links_to=self.prefix)
        write_note(self.store, self.output, RUN, note)

    def write(self, base: str = "https://new.test/{key}", source: str = "") -> FeedAccount:
        request = FeedRequest(self.output, str(self.to), base, RUN, source)
        return FeedOut(self.store, self.store, request).write()

    def table(self, name: str) -> list[dict[str, str]]:
        """Read a list as it must be on the disk: each row ends in CR LF."""
        data = (self.to / name).read_bytes()
        rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        assert data.count(b"\r") == data.count(b"\r\n") == len(rows) + 1
        return rows


@pytest.fixture
def shop(store: Store, prefix: str, planned: Callable[..., WorkItem], tmp_path: Path) -> Shop:
    return Shop(store, prefix, planned(task="edit", image="in/image.png"), tmp_path)


def feed_of(*products: str) -> str:
    return "id,image_link\n" + "".join(f"{each},{SHOP}/{each}.png\n" for each in products)


def test_a_picture_that_is_not_proved_keeps_its_link(shop: Shop) -> None:
    names = ("good", "plain", "unrecorded", "another", "spoilt", "gone")
    made = {name: shop.publish(name, "background" if name == "plain" else "edit") for name in names}
    results = [row(n, name, record) for n, (name, record) in enumerate(made.items(), start=1)]
    other = made["another"].item_id, made["good"].output.uri, "0" * 64
    results[3] = Result(4, "another", "edit", "done", *other)
    uris = {name: join_uri(shop.output, record_key(made[name].item_id)) for name in names}
    shop.store.delete(uris["unrecorded"])
    shop.store.put(uris["spoilt"], b"{}", "application/json")
    shop.store.delete(made["gone"].output.uri)
    shop.leave_run(feed_of(*names, "late"), results)

    account = shop.write()
    assert account.kept == {
        "record_missing": 1,
        "bad_record": 2,
        "picture_missing": 1,
        "not_in_run": 1,
    }
    assert (account.replaced, account.by_a_model, account.missing) == (2, 1, 4)
    written = feed_of(*names, "late")
    for name in ("good", "plain"):
        key = made[name].output.uri.removeprefix(f"{shop.output}/")
        written = written.replace(f"{SHOP}/{name}.png", f"https://new.test/{key}")
    assert (shop.to / "feed.csv").read_text() == written
    assert [each["offer_id"] for each in shop.table("ai-pictures.csv")] == ["good"]
    kept = {each["offer_id"]: each["reason"] for each in shop.table("kept-links.csv")}
    assert kept == {
        "unrecorded": "record_missing",
        "another": "bad_record",
        "spoilt": "bad_record",
        "gone": "picture_missing",
        "late": "not_in_run",
    }


def test_a_moved_output_is_linked_where_it_is(shop: Shop) -> None:
    shop.leave_run(feed_of("mug"), [row(1, "mug", shop.publish("mug"))])
    there = f"{shop.prefix}/moved"
    for each in [*shop.store.list(f"{shop.output}/")]:
        new = f"{there}{each.uri.removeprefix(shop.output)}"
        shop.store.put(new, shop.store.get(each.uri), "x/x")
        shop.store.delete(each.uri)
    shop.output = there
    assert shop.write("https://new.test").replaced == 1
    assert "/moved/images/" in (shop.to / "feed.csv").read_text()


@pytest.mark.parametrize(
    ("others", "replaced"), [("mug", 1), ("bag", 0)], ids=["one edit", "two edits"]
)
def test_a_picture_of_a_newer_feed_has_its_link_if_it_was_edited_one_way(
    shop: Shop, others: str, replaced: int
) -> None:
    """Two rows edited it. The newer feed names it for a third product."""
    records = [shop.publish("mug"), shop.publish(others)]
    results = [row(n, f"row-{n}", each) for n, each in enumerate(records)]
    shop.leave_run(feed_of("mug"), results, picture="mug.png")
    newer = f"{shop.prefix}/newer.csv"
    shop.store.put(newer, f"id,image_link\ncup,{SHOP}/mug.png\n".encode(), "text/csv")
    account = shop.write(source=newer)
    assert (account.replaced, account.kept["not_in_run"]) == (replaced, 1 - replaced)


def test_a_kept_link_is_listed_as_its_product_first_writes_it_and_is_no_formula(
    shop: Shop,
) -> None:
    feed = (
        "id,image_link,additional_image_link\n"
        f"mug,{SHOP}/mug.png,\n"
        f"=1+2,{SHOP}/a.png?v=1,{SHOP}/a.png\n"
        f"-12,{SHOP}/b.png,\n"
        f"=1+2,{SHOP}/a.png?v=2,\n"
    )
    shop.leave_run(feed, [row(1, "mug", shop.publish("mug"))])
    shop.write()
    assert [tuple(each.values())[:5] for each in shop.table("kept-links.csv")] == [
        ("'=1+2", f"{SHOP}/a.png?v=1", "not_in_run", "", "3"),
        ("-12", f"{SHOP}/b.png", "not_in_run", "", "4"),
    ]
