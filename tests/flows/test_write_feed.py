"""A feed goes in, is restyled, and comes out with new links, on a real Prefect server and a real
store. If these break, a shop imports links that lead nowhere, or pictures that nobody wanted."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.provenance.keys import feed_key
from ace_tasks.provenance.record import Record
from ace_tasks.runs.results import Summary
from ace_tasks.store import Store, join_uri, split_uri
from flows.restyle_catalog import restyle_catalog
from flows.review_run import review_run
from flows.write_feed import write_feed
from tests.support.grouped import grouped
from tests.support.processes import ace_here

pytestmark = pytest.mark.usefixtures("replicas_here")

Make = Callable[..., bytes]
CDN = "https://cdn.shop.test"
SHOPIFY = (
    "\ufeffHandle,Title,Image Src,Image Position,Variant Image,Price\r\n"
    f'mug,"A ""mug"", blue",{CDN}/in/1.png?v=1,1,{CDN}/in/2.png,5.00\r\n'
    f'mug,,"{CDN}/in/2.png",2,,\r\n'
    f"bag,Bag,{CDN}/in/gone.png,1,,9.00\r\n"
    f"hat,Hut é,{CDN}/in/3.png,1,,7.00\r\n"
)


@pytest.fixture
def feed(store: Store, prefix: str, picture: Make) -> str:
    """Shopify's export on the store, with all of its pictures but one."""
    for number in (1, 2, 3):
        store.put(f"{prefix}/in/{number}.png", picture(seed=number), "image/png")
    store.put(f"{prefix}/shop.csv", SHOPIFY.encode(), "text/csv")
    return f"{prefix}/shop.csv"


def restyle(feed: str, prefix: str, **parameters: Any) -> Summary:
    given = grouped(
        restyle_catalog,
        prompt="on marble",
        variant="toy",
        steps=1,
        links_from=f"{CDN}/in/",
        links_to=f"{prefix}/in",
        **parameters,
    )
    state = restyle_catalog(source=feed, output=f"{prefix}/out", return_state=True, **given)
    return Summary.model_validate(state.result(raise_on_failure=False))


def write(prefix: str, to: str, **parameters: Any) -> Any:
    given = {"public_base_url": f"{CDN}/{{bucket}}"} | parameters
    return write_feed(output=f"{prefix}/out", to=to, return_state=True, **given)


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode())))


def test_a_feed_comes_out_with_the_pictures_that_a_person_wants(
    store: Store, prefix: str, feed: str, tmp_path: Path
) -> None:
    """All are held back: one is promoted, one is discarded, and about one nobody has decided."""
    summary = restyle(feed, prefix, review_below=1.0)
    assert summary.by_error == {"needs_review": 3, "source_missing": 1}
    ids = [each["id"] for each in map(json.loads, _lines(store, prefix, summary))]
    review_run(f"{prefix}/out", summary.run_id, promote=ids[0], discard=ids[1])

    copied = ace_here("pictures", f"{prefix}/out", str(tmp_path), "--json")
    assert json.loads(copied.stdout)["without"] == {
        "discarded": 1,
        "source_missing": 1,
        "needs_review": 1,
    }
    state = write(prefix, f"{prefix}/new")
    assert state.name == "LinksKept", state.message
    data = state.result()
    assert data["kept"] == {"discarded": 1, "source_missing": 1, "needs_review": 1}
    (picture,) = store.list(f"{prefix}/out/images/")
    bucket, key = split_uri(picture.uri)
    new = f"{CDN}/{bucket}/{key}"
    expected = SHOPIFY.replace(f"{CDN}/in/1.png?v=1", new)
    assert store.get(f"{prefix}/new/shop.csv") == expected.encode()
    assert store.get(feed) == SHOPIFY.encode()

    (made,) = rows_of(store.get(f"{prefix}/new/ai-pictures.csv"))
    record = Record.model_validate_json(store.get(f"{prefix}/out/{made['record']}"))
    assert record.output.uri == picture.uri
    assert made == {
        "offer_id": "mug",
        "link": new,
        "digital_source_type": "http://cv.iptc.org/newscodes/digitalsourcetype/"
        "compositeWithTrainedAlgorithmicMedia",
        "tool": f"ace-catalog {record.run.code_version}, ACE++ toy",
        "date": f"{record.created_at:%Y-%m-%d}",
        "record": made["record"],
    }
    kept = rows_of(store.get(f"{prefix}/new/kept-links.csv"))
    assert [(each["offer_id"], each["link"], each["reason"]) for each in kept] == [
        ("mug", f"{CDN}/in/2.png", "discarded"),
        ("bag", f"{CDN}/in/gone.png", "source_missing"),
        ("hat", f"{CDN}/in/3.png", "needs_review"),
    ]


def _lines(store: Store, prefix: str, summary: Summary) -> list[str]:
    uri = join_uri(f"{prefix}/out", f"runs/{summary.run_id}/catalog.jsonl")
    return store.get(uri).decode().splitlines()


def test_a_changed_feed_is_refused_and_a_newer_one_gets_the_pictures_that_it_still_names(
    store: Store, prefix: str, feed: str, tmp_path: Path
) -> None:
    feed += ".gz"
    store.put(feed, gzip.compress(SHOPIFY.encode()), "application/gzip")
    run = restyle(feed, prefix, max_failed=1)
    check_refusals(prefix, feed)
    assert list(store.list(f"{prefix}/new/")) == []
    assert gzip.decompress(store.get(feed)) == SHOPIFY.encode()
    lines = SHOPIFY.splitlines(keepends=True)
    newer = "".join([lines[0], lines[4].replace("7.00", "6.50"), lines[1], "new,N,,,,1\r\n"])
    store.put(feed, gzip.compress(newer.encode()), "application/gzip")

    def feed_command(*more: str) -> Any:
        base = ["--public-base-url", f"{CDN}/by-row/{{name}}"]
        return ace_here("feed", f"{prefix}/out", str(tmp_path), *base, *more)

    ended = feed_command()
    assert ended.returncode == 2
    assert f"it has changed since run {run.run_id} read it" in ended.stderr
    assert list(tmp_path.iterdir()) == []
    ended = feed_command("--source", feed)
    assert ended.returncode == 0, ended.stderr
    assert "pictures with a new link: 3, by a model: 3; with their old link: 0" in ended.stdout
    assert f"ai_pictures {tmp_path / 'ai-pictures.csv'}" in ended.stdout
    written = gzip.decompress((tmp_path / "shop.csv.gz").read_bytes()).decode()
    expected = newer.replace(f"{CDN}/in/3.png", f"{CDN}/by-row/hat.png")
    expected = expected.replace(f"{CDN}/in/1.png?v=1", f"{CDN}/by-row/mug.png")
    (second,) = (each["id"] for each in map(json.loads, _lines(store, prefix, run))
                 if each["id"].startswith("mug-"))  # fmt: skip
    assert written == expected.replace(f"{CDN}/in/2.png", f"{CDN}/by-row/{second}.png")

    ended = feed_command("--source", feed)
    assert ended.returncode == 2
    assert "accepted: a place without 'shop.csv.gz', or overwrite (--overwrite)" in ended.stderr
    assert feed_command("--source", feed, "--overwrite").returncode == 0
    store.delete(f"{prefix}/out/{feed_key(run.run_id)}")
    assert "has no note of its feed" in feed_command("--overwrite").stderr


def check_refusals(prefix: str, feed: str) -> None:
    """Whatever cannot be written is refused before anything is written."""
    folder = feed.rpartition("/")[0]
    for change, message in [
        ({"to": folder, "overwrite": True}, "accepted: another place than that of the feed itself"),
        ({"to": f"{prefix}/out/runs"}, "accepted: a folder or prefix outside the output's own"),
        ({"public_base_url": ""}, "public_base_url: accepted: where the web finds the pictures"),
        ({"public_base_url": "https://me:pw@c.test"}, "without user, password"),
        ({"run": "0000"}, "run: accepted: a restyle whose source is a feed; 0000 under"),
        ({"source": f"{prefix}/in"}, "source: accepted: a feed that ends in"),
    ]:
        state = write(prefix, **({"to": f"{prefix}/new"} | change))
        assert state.is_failed()
        assert message in state.message, state.message
        assert "pw" not in state.message
