"""A feed that is written with new links. If these break, a shop imports a feed in which a price, a
title or the order of pictures is another, or a product shows the picture of another product."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ace_tasks.catalog.files import Row
from ace_tasks.catalog.sources.feed_links import FeedLinks
from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures, read_table
from ace_tasks.catalog.sources.source_picture import SourcePicture
from ace_tasks.errors import BrokenRun, CatalogError, SettingsError
from tests.support.written_feeds import Feed, google_table, google_xml, shopify

OLDER = {
    "product": "Handle",
    "title": "Title",
    "body": "Body (HTML)",
    "image": "Image Src",
    "position": "Image Position",
    "variant": "Variant Image",
}
NEWER = {
    "product": "URL handle",
    "title": "Title",
    "body": "Description",
    "image": "Product image URL",
    "position": "Image position",
    "variant": "Variant image URL",
}
SHOP = Links.named("https://c.test/files/", "s3://shop/files")
files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def place_of(path: Path, encoding: str = "", **more: Any) -> SourcePlace:
    return SourcePlace("source", str(path), SHOP, once=True, encoding=encoding, **more)


def write_anew(folder: Path, name: str, feed: Feed, *, packed: bool = False) -> bytes:
    """Write a feed with the links that its maker has for it, and check what was read of it."""
    path = folder / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(feed.old, mtime=0) if packed else feed.old)
    place = place_of(path, "" if feed.pieces[0][0] else feed.encoding)
    plain, rows = list(read_table(place, path)), list(read_table(place, path, texts=True))
    assert [each.cells for each in rows if isinstance(each, Row)] == [
        each.cells for each in plain if isinstance(each, Row)
    ]
    assert all(isinstance(each, Row) for each in rows), rows
    out = io.BytesIO()
    with FeedLinks(place, path) as links:
        links.read()
        found = list(links.pictures())
        assert {(each.product, each.uri) for each in found} == feed.named.keys()
        for each in found:
            if new := feed.named[each.product, each.uri]:
                links.replace(each, new)
        links.write(out)
        written = folder / f"new-{name}"
        written.write_bytes(out.getvalue())
        links.check(written)
    taken = {
        (each.row_id, each.uri)
        for each in pictures(place, None)  # type: ignore[arg-type]  # a local file needs no store
        if isinstance(each, SourcePicture)
    }
    assert taken == {(each.row_id, each.uri) for each in found if each.row_id}
    return out.getvalue()


@given(google_xml(), st.booleans())
@files
def test_xml_of_google_differs_in_its_links_alone(tmp_path: Path, feed: Feed, packed: bool) -> None:
    assert write_anew(tmp_path, "feed.xml", feed, packed=packed) == feed.new


@given(google_table(","))
@files
def test_csv_of_google_differs_in_its_links_alone(tmp_path: Path, feed: Feed) -> None:
    assert write_anew(tmp_path, "feed.csv", feed) == feed.new


@given(google_table("\t"), st.sampled_from(["feed.tsv", "feed.txt"]))
@files
def test_tsv_of_google_differs_in_its_links_alone(tmp_path: Path, feed: Feed, name: str) -> None:
    assert write_anew(tmp_path, name, feed) == feed.new


@given(shopify())
@files
def test_an_export_of_shopify_differs_in_its_links_alone(tmp_path: Path, feed: Feed) -> None:
    assume(feed.named)
    assert write_anew(tmp_path, "feed.csv", feed) == feed.new


# ---------------------------------------------------------------- what a feed may hold besides


def rewritten(
    folder: Path, name: str, content: str | bytes, encoding: str = "", **more: Any
) -> tuple[str, list[tuple[str, str, bool]]]:
    """Write a feed anew, with `https://new.test/N` for the N-th picture that has a row.

    Return it, and (product, link, whether it was rejected) of the other pictures.
    """
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    out, kept, count = io.BytesIO(), [], 0
    with FeedLinks(place_of(path, encoding, **more), path) as links:
        links.read()
        for each in links.pictures():
            if each.row_id is None:
                kept.append((each.product, each.link, each.rejected))
                continue
            count += 1
            links.replace(each, f"https://new.test/{count}")
        links.write(out)
    return out.getvalue().decode(), kept


def test_a_product_that_comes_twice_has_its_new_link_twice(tmp_path: Path) -> None:
    row = "7,{old},{old}\n"
    text = "id,image_link,additional_image_link\n" + row + row
    written, kept = rewritten(
        tmp_path, "f.csv", text.replace("{old}", "https://c.test/files/1.jpg")
    )
    assert (written, kept) == (text.replace("{old}", "https://new.test/1"), [])


def test_a_picture_of_two_products_has_the_link_of_each(tmp_path: Path) -> None:
    text = "id,image_link\n7,{}\n8,{}\n"
    written, _ = rewritten(tmp_path, "f.csv", text.replace("{}", "https://c.test/files/1.jpg"))
    assert written == text.format("https://new.test/1", "https://new.test/2")


def test_links_without_a_row_stay_and_are_named_with_the_reason(tmp_path: Path) -> None:
    lines = [
        "id,image_link,additional_image_link",
        "7,https://c.test/files/1.jpg,https://c.test/files/2.jpg",
        "7,https://c.test/files/3.jpg,",  # an id twice
        "8,https://elsewhere.test/1.jpg,",
        ",https://c.test/files/1.jpg,",
        '9,"https://c.test/files/4.jpg',  # a quote that is not closed
        "10,https://c.test/files/5.jpg",
    ]
    written, kept = rewritten(tmp_path, "f.csv", "\n".join(lines), main_only=True)
    lines[1] = "7,https://new.test/1,https://c.test/files/2.jpg"
    lines[6] = "10,https://new.test/2"
    assert written == "\n".join(lines)
    assert kept == [
        ("7", "https://c.test/files/2.jpg", False),
        ("7", "https://c.test/files/3.jpg", True),
        ("8", "https://elsewhere.test/1.jpg", True),
        ("", "https://c.test/files/1.jpg", True),
        ("", "", True),  # what cannot be read
    ]


@pytest.mark.parametrize("names", [OLDER, NEWER], ids=["older export", "newer export"])
def test_a_whole_export_of_shopify_keeps_its_positions_and_its_variants(
    tmp_path: Path, names: dict[str, str]
) -> None:
    """Each row of a product shows one picture, and its variant has the picture of another row."""
    columns = [*names.values(), *(f"Google Shopping / Custom Label {n}" for n in range(30))]
    rows = [
        ("ring", 'Ring "Sun"', "<p>Gold,\nwith <b>a</b> stone</p>", "1.jpg", "1", "2.jpg"),
        ("ring", "", "", "2.jpg", "2", "1.jpg"),
        ("ring", "", "", "", "", "2.jpg"),
        ("pot", "Pot", "", "3.jpg", "1", ""),
    ]
    out = io.StringIO()
    table = csv.DictWriter(out, columns, lineterminator="\r\n")
    table.writeheader()
    for row in rows:
        cells = dict(zip(names, row, strict=True))
        for name in ("image", "variant"):
            cells[name] = f"https://c.test/files/{cells[name]}?v=1" if cells[name] else ""
        table.writerow({names[name]: cell for name, cell in cells.items()})
    written, kept = rewritten(tmp_path, "products.csv", out.getvalue())
    expected = out.getvalue()
    for number in (1, 2, 3):
        expected = expected.replace(
            f"https://c.test/files/{number}.jpg?v=1", f"https://new.test/{number}"
        )
    assert (written, kept) == (expected, [])
    positions = [each[names["position"]] for each in csv.DictReader(io.StringIO(written))]
    assert positions == ["1", "2", "", "1"]


def test_a_link_with_a_quote_is_replaced_with_both_of_its_quotes(tmp_path: Path) -> None:
    text = 'id,image_link,additional_image_link\n1,"{0}","{1}, {0}"\n'
    old = ('https://c.test/files/""a"".jpg', 'https://c.test/files/é""b.jpg')
    written, _ = rewritten(tmp_path, "f.csv", text.format(*old))
    assert written == text.format("https://new.test/1", "https://new.test/2")


def test_a_stray_quote_in_tsv_is_kept_as_it_is(tmp_path: Path) -> None:
    text = 'id\ttitle\timage_link\n1\t"12" pan\t{0}\n2\t"tall" mug\t{1}\n3\t"\t{2}\n'
    links = [f"https://c.test/files/{n}.jpg" for n in range(3)]
    written, kept = rewritten(tmp_path, "f.txt", text.format(*links))
    assert (written, kept) == (text.format(*(f"https://new.test/{n + 1}" for n in range(3))), [])


def test_xml_in_utf_16_without_a_mark_keeps_its_bytes(tmp_path: Path) -> None:
    text = "<rss><item><id>マ</id><image_link>https://c.test/files/1.jpg</image_link></item></rss>"
    path = tmp_path / "f.xml"
    path.write_bytes(text.encode("utf-16-be"))
    out = io.BytesIO()
    with FeedLinks(place_of(path), path) as links:
        links.read()
        (only,) = links.pictures()
        links.replace(only, "https://new.test/~")
        links.write(out)
    new = text.replace("https://c.test/files/1.jpg", "https://new.test/~")
    assert out.getvalue() == new.encode("utf-16-be")


def test_a_letter_that_the_encoding_does_not_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes("id,image_link,title\n1,https://c.test/files/1.jpg,マグ\n".encode("cp932"))
    with FeedLinks(place_of(path, "shift_jisx0213"), path) as links:
        links.read()
        (only,) = links.pictures()
        links.replace(only, "https://new.test/~")
        with pytest.raises(SettingsError, match="accepted: letters that shift_jisx0213 can write"):
            links.write(io.BytesIO())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", "id,image\n1,https://c.test/files/1.jpg\n"),
        ("feed.jsonl", '{"id": 1, "image_link": "https://c.test/files/1.jpg"}\n'),
    ],
    ids=["a table of one's own", "JSON"],
)
def test_what_is_no_feed_of_a_shop_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(CatalogError, match=r"source: accepted: a (product )?feed"):
        rewritten(tmp_path, name, content)


def test_a_feed_that_differs_in_more_than_links_is_never_given_out(tmp_path: Path) -> None:
    old, new = tmp_path / "f.csv", tmp_path / "g.csv"
    old.write_text("id,price,image_link\n1,5,https://c.test/files/1.jpg\n")
    with FeedLinks(place_of(old), old) as links:
        new.write_text("id,price,image_link\n1,5,https://new.test/1.jpg\n")
        links.check(new)
        for wrong in ("1,6,https://new.test/1.jpg\n", "1,5,x\n2,5,y\n", ""):
            new.write_text("id,price,image_link\n" + (wrong or "1,5,a\n2"))
            with pytest.raises(BrokenRun, match="would differ in more than its links"):
                links.check(new)
