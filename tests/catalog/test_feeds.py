"""Test how sources name pictures. If these break, a feed from outside reaches what it must not, a
picture is taken for another one, or a shop's export is refused."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.catalog.files import Reject, Row
from ace_tasks.catalog.sources.album import Album
from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.mask_files import open_masks
from ace_tasks.catalog.sources.merchant import read_feed
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures
from ace_tasks.catalog.sources.prefixes import buckets_of, check_apart, uris_of
from ace_tasks.catalog.sources.source_picture import Skipped, SourcePicture, row_id_of, unique_id
from ace_tasks.catalog.sources.tables import TableReader
from ace_tasks.errors import BadRow, CatalogError, SettingsError
from ace_tasks.specs import parse_spec
from ace_tasks.store import Store

SHOP = Links.named("https://cdn.shop.com/", "s3://shop/in")
RSS = (
    '<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0">'
    "<channel><title>Shop</title>{}</channel></rss>"
)


def item(row_id: str, link: str, more: str = "") -> str:
    return f"<item><g:id>{row_id}</g:id><g:image_link>{link}</g:image_link>{more}</item>"


# ---------------------------------------------------------------- row ids


@given(st.text(), st.just(""))
@example("mug-17.jpg", "mug-17.jpg")
@example("shoes/red shoe.jpg", "shoes-red-shoe-")
@example("Größe/Äpfel.PNG", "Groe-Apfel-")
@example("ティーシャツ.png", "picture-")
@example("..", "picture-")
@example("a" * 200 + ".jpg", "a" * 80 + "-")
@example("x\n\x00.jpg", "x-")
def test_a_row_id_is_readable_and_valid(key: str, start: str) -> None:
    row_id = row_id_of(key)
    assert row_id.startswith(start)
    spec = parse_spec({"id": row_id, "task": "edit", "image": "i", "prompt": "p"})
    assert spec.id == row_id


@given(st.text(), st.text())
def test_two_keys_have_two_ids(one: str, other: str) -> None:
    assert (row_id_of(one) == row_id_of(other)) == (one == other)


def test_no_two_keys_share_an_id_and_each_keeps_its_own() -> None:
    keys = [
        "a/b.jpg",
        "a-b.jpg",
        "a/b.png",
        "a b.jpg",
        "a%20b.jpg",
        "A/b.jpg",
        "a//b.jpg",
        row_id_of("a/b.jpg") + ".jpg",
        "é.jpg",
        "e\u0301.jpg",
        "e.jpg",
    ]
    ids = [row_id_of(key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert ids == [row_id_of(key) for key in keys]
    assert row_id_of("a/b.jpg") == "a-b-4a51636246"  # for ever: results are found by it
    assert row_id_of("17") == "17"
    assert row_id_of("17", 2) not in {"17-2", row_id_of("17", 3), row_id_of("17-2")}
    assert unique_id("a-b", "a", "b") != unique_id("a-b", "a-b")


# ---------------------------------------------------------------- places


def test_prefixes_may_not_lie_in_each_other() -> None:
    check_apart(source="s3://shop/in", output="s3://shop/in-edited", mask="alpha")
    check_apart(source="s3://shop/in/feed.csv", output="s3://shop/in")  # a file names its pictures
    for source, output in (
        ("s3://shop/in", "s3://shop/in/edited"),
        ("s3://shop/in/a", "s3://shop/in"),
        ("s3://shop/in/", "s3://shop/in"),
        ("s3://shop", "s3://shop/edited"),
    ):
        with pytest.raises(SettingsError, match=r"(output|source): accepted: a prefix outside"):
            check_apart(source=source, output=output)
    with pytest.raises(SettingsError, match="masks: accepted: a prefix outside people"):
        check_apart(people="s3://shop/people", masks="s3://shop/people/masks")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pictures", "source: accepted: s3://bucket/prefix, or a file that ends in one of"),
        ("https://shop.com/feed", "source: accepted"),
        ("s3://", "an S3 URI needs a bucket"),
        ("s3://shop/../in", "'.' or '..'"),
    ],
)
def test_what_is_no_place_is_refused(uri: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SourcePlace("source", uri)


def test_references_may_have_commas_in_their_names() -> None:
    assert uris_of("reference", "s3://a/x, y.jpg,s3://a/z.jpg") == (
        "s3://a/x, y.jpg",
        "s3://a/z.jpg",
    )
    assert uris_of("reference", " ") == ()
    with pytest.raises(SettingsError, match="reference: accepted: s3://bucket/key"):
        uris_of("reference", "z.jpg")
    assert buckets_of("s3://b/x", "auto", "", "s3://a/y") == ("a", "b")
    assert buckets_of("s3://b/x", "local.csv") is None


# ---------------------------------------------------------------- links


def test_a_link_becomes_a_place_on_s3() -> None:
    assert SHOP is not None
    resolve = SHOP.resolve
    assert resolve("https://cdn.shop.com/a/mug.jpg?v=17#x") == "s3://shop/in/a/mug.jpg"
    assert resolve("HTTP://CDN.shop.com/a%20mug.jpg") == "s3://shop/in/a mug.jpg"
    deeper = Links.named("https://cdn.shop.com/s/files", "s3://shop")
    assert deeper is not None
    assert deeper.resolve("https://cdn.shop.com/s/files/m.jpg") == "s3://shop/m.jpg"


@pytest.mark.parametrize(
    "link",
    [
        "https://cdn.shop.com.evil.example/mug.jpg",
        "https://evil.example/https://cdn.shop.com/mug.jpg",
        "https://cdn.shop.com@evil.example/mug.jpg",
        "https://user:word@cdn.shop.com/mug.jpg",
        "http://169.254.169.254/latest/meta-data",
        "ftp://cdn.shop.com/mug.jpg",
        "https://cdn.shop.com/",
        "https://cdn.shop.com/%ff.jpg",
        "https://[",
    ],
)
def test_a_link_elsewhere_is_refused(link: str) -> None:
    assert SHOP is not None
    with pytest.raises(BadRow, match="accepted: "):
        SHOP.resolve(link)


def test_no_message_quotes_what_a_link_keeps_secret() -> None:
    assert SHOP is not None
    for link in ("https://anna:s3cret@far.example/a.jpg", "https://far.example/a.jpg?sig=s3cret"):
        with pytest.raises(BadRow, match=r"given 'https://far.example/a.jpg'"):
            SHOP.resolve(link)
    with pytest.raises(SettingsError, match=r"given 'https://cdn.shop.com/'"):
        Links.named("https://anna:s3cret@cdn.shop.com/", "s3://shop")


def test_where_links_lead_is_given_whole_or_not_at_all() -> None:
    assert Links.named("", "") is None
    for links_from, links_to in (
        ("https://cdn.shop.com", ""),
        ("", "s3://shop"),
        ("cdn.shop.com", "s3://shop"),
        ("https://cdn.shop.com/?x=", "s3://shop"),
        ("https://cdn.shop.com/", "/home"),
    ):
        with pytest.raises(SettingsError, match="links_"):
            Links.named(links_from, links_to)


# ---------------------------------------------------------------- Google Merchant, XML


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_an_rss_feed_is_read_item_by_item(tmp_path: Path) -> None:
    more = (
        "<g:additional_image_link>https://cdn.shop.com/2.jpg</g:additional_image_link>"
        "<g:additional_image_link>https://cdn.shop.com/3.jpg</g:additional_image_link>"
        "<title><![CDATA[A <b>mug</b> & more]]></title><g:shipping><g:country>DE</g:country></g:shipping>"
    )
    path = write(
        tmp_path, "feed.xml", RSS.format("\n" + item("17", "https://cdn.shop.com/1.jpg", more))
    )
    (row,) = read_feed(path)
    assert isinstance(row, Row)
    assert row.line == 2
    assert row.cells["title"] == "A <b>mug</b> & more"
    assert row.cells["additional_image_link"] == [
        "https://cdn.shop.com/2.jpg",
        "https://cdn.shop.com/3.jpg",
    ]
    found = list(TableReader("s3://feeds/feed.xml", SHOP, None).read([row]))
    assert [each.uri for each in found if isinstance(each, SourcePicture)] == [
        "s3://shop/in/1.jpg",
        "s3://shop/in/2.jpg",
        "s3://shop/in/3.jpg",
    ]
    assert [
        each.row_id.rpartition("-")[0] for each in found if isinstance(each, SourcePicture)
    ] == [
        "",
        "17-2",
        "17-3",
    ]
    main = list(TableReader("s3://feeds/feed.xml", SHOP, None, main_only=True).read([row]))
    assert [each.row_id for each in main if isinstance(each, SourcePicture)] == ["17"]


def test_an_atom_entry_has_an_id_of_its_own_that_is_not_the_products(tmp_path: Path) -> None:
    text = (
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><entry>'
        "<g:id>17</g:id><id>tag:shop</id><g:image_link>https://x/1.jpg</g:image_link></entry></feed>"
    )
    (row,) = read_feed(write(tmp_path, "feed.atom.gz", gzip.compress(text.encode(), mtime=0)))
    assert isinstance(row, Row)
    assert row.cells["id"] == "17"


LAUGHS = '<!DOCTYPE rss [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


LONG = "x" * (2**20 + 200_000)
BROKEN = {  # name: (feed, what the message must say)
    "entities": (LAUGHS + "<rss>&b;</rss>", "without a document type"),
    "document type of a file": (
        '<!DOCTYPE rss SYSTEM "file:///etc/passwd"><rss/>',
        "without a document type",
    ),
    "entity of an address": (
        '<!DOCTYPE r [<!ENTITY % x SYSTEM "http://evil/x.dtd"> %x;]><r/>',
        "document type",
    ),
    "deep": ("<rss><item>" + "<x>" * 100, "at most 64 elements deep"),
    "long comment": (f"<rss><!--{LONG}--></rss>", "tags and comments of at most"),
    "long attribute": (f'<rss a="{LONG}"/>', "tags and comments of at most"),
    "mismatched tag": ("<rss><item></rss>", "line 1, character 14: a tag is closed that"),
    "unbound prefix": ("<rss><g:item/></rss>", "a prefix that is not declared"),
    "no items": ("<rss><channel/></rss>", "no <item> and no <entry>"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><rss/>', "unreadable XML"),
    "CSV": ("id,image_link\n1,x", "unreadable XML"),
    "empty": ("", "the file ends before its first tag is closed"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_hostile_or_broken_feed_ends_as_a_whole(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        list(read_feed(write(tmp_path, "feed.xml", text)))


def test_damaged_gzip_ends_a_feed(tmp_path: Path) -> None:
    packed = gzip.compress(RSS.format(item("1", "x") * 1000).encode(), mtime=0)
    for broken in (packed[:-20], packed[:50] + b"junk" + packed[54:], b"no gzip"):
        with pytest.raises(CatalogError, match="damaged gzip"):
            list(read_feed(write(tmp_path, "feed.xml.gz", broken)))


def test_an_item_within_another_does_not_vanish(tmp_path: Path) -> None:
    text = RSS.format("\n" + item("1", "x", "\n" + item("2", "y")) + "\n" + item("3", "z"))
    outer, inner, third = read_feed(write(tmp_path, "feed.xml", text))
    assert isinstance(outer, Reject)
    assert isinstance(inner, Reject)
    assert isinstance(third, Row)
    assert (outer.line, inner.line, third.line) == (2, 3, 4)
    assert "holds the item of line 3" in outer.reason
    assert "is inside the item of line 2" in inner.reason


HIDING = {
    "a CDATA section": "<description><![CDATA[one{}\ntwo]]></description>",
    "one that is deeper": "<g:tax><g:rate><![CDATA[one{}\ntwo]]></g:rate></g:tax>",
    "one that is long": "<description><![CDATA[" + "one\n" * 30_000 + "{}\ntwo]]></description>",
    "a comment": "<title>one</title><!-- {}\n two -->",
}


@pytest.mark.parametrize("text", HIDING.values(), ids=HIDING)
def test_an_item_in_a_text_that_is_not_closed_does_not_vanish(tmp_path: Path, text: str) -> None:
    """The first product would have the picture of the second, which would be nowhere."""
    before, behind = text.split("{}")
    hidden = f"<g:image_link>1.jpg</g:image_link></item>\n<item>\n<g:id>2</g:id>{behind}"
    first = f"\n<item><g:id>1</g:id>{before}{hidden}<g:image_link>2.jpg</g:image_link></item>"
    text = RSS.format(first + "\n" + item("3", "3.jpg"))
    outer, inner, third = read_feed(write(tmp_path, "feed.xml", text))
    assert isinstance(outer, Reject)
    assert isinstance(inner, Reject)
    assert isinstance(third, Row)
    assert inner.line == outer.line + 1 + before.count("\n")
    assert f"holds the item of line {inner.line}" in outer.reason
    assert "<g:id>2</g:id>" in str(inner.row)


def test_an_item_in_the_text_before_all_items_does_not_vanish(tmp_path: Path) -> None:
    text = RSS.format(
        "<description><![CDATA[" + item("1", "x") + "]]></description>" + item("2", "y")
    )
    hidden, row = read_feed(write(tmp_path, "feed.xml", text))
    assert isinstance(hidden, Reject)
    assert "is inside a text before it" in hidden.reason
    assert isinstance(row, Row)


def test_markup_of_a_description_is_text(tmp_path: Path) -> None:
    html = "<description><![CDATA[<items><b>a</b> <itemize/> < item> &lt;entry</items>]]></description>"
    commented = "<!-- " + item("0", "z") + " -->"
    (row,) = read_feed(write(tmp_path, "feed.xml", RSS.format(commented + item("1", "x", html))))
    assert isinstance(row, Row)


def test_two_products_in_one_item_are_a_reject(tmp_path: Path) -> None:
    more = "<g:id>2</g:id><g:image_link>2.jpg</g:image_link>"
    (row,) = read_feed(write(tmp_path, "feed.xml", RSS.format(item("1", "1.jpg", more))))
    assert isinstance(row, Reject)
    assert row.reason == "accepted: one id in an item; this one has 2: 1, 2"


def test_an_item_too_large_is_a_reject_and_the_next_one_is_read(tmp_path: Path) -> None:
    huge = "<description>" + "x" * 3_000_000 + "</description>"
    many = "<a/>" * 100_000
    text = RSS.format(item("1", "x", huge) + item("2", "x", many) + item("3", "x"))
    tracemalloc.start()
    first, second, third = read_feed(write(tmp_path, "feed.xml", text))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for each in (first, second):
        assert isinstance(each, Reject)
        assert "items of at most" in each.reason
    assert isinstance(third, Row)
    assert peak < 12_000_000


def test_a_feed_of_any_size_takes_the_memory_of_an_item(tmp_path: Path) -> None:
    path = tmp_path / "feed.xml"
    with path.open("w") as out:
        start, end = RSS.split("{}")
        out.write(start)
        for number in range(10_000):
            out.write(item(str(number), f"https://cdn.shop.com/{number}.jpg"))
        out.write(end)
    tracemalloc.start()
    reader = TableReader("s3://feeds/feed.xml", SHOP, None)
    count = sum(isinstance(each, SourcePicture) for each in reader.read(read_feed(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 2_000_000  # held at once, they would take 7 MB


# ---------------------------------------------------------------- tables


@pytest.fixture
def read(tmp_path: Path, object_store: Any, store: Store) -> Callable[..., list[Any]]:
    def read(name: str, text: str | bytes, links: Links | None = SHOP, **more: Any) -> list[Any]:
        path = write(tmp_path, name, text)
        return list(pictures(SourcePlace("source", str(path), links, **more), store))

    return read


Read = Callable[..., list[Any]]


def test_googles_table_is_known_by_its_columns(read: Read) -> None:
    text = (
        "ID\timage link\tadditional image link\ttitle\n"
        "17\thttps://cdn.shop.com/1.jpg\thttps://cdn.shop.com/2.jpg,https://cdn.shop.com/a,b.jpg\tMug\n"
        "18\ts3://shop/in/8.jpg\t\tCup\n"
        "\thttps://cdn.shop.com/9.jpg\t\tNone\n"
        "19\thttps://evil.example/9.jpg\t\tFar\n"
        "20\t\t\tBare\n"
    )
    for name in ("feed.tsv", "feed.TXT"):
        found = read(name, text)
        assert [each.uri for each in found if isinstance(each, SourcePicture)] == [
            "s3://shop/in/1.jpg",
            "s3://shop/in/2.jpg",
            "s3://shop/in/a,b.jpg",
            "s3://shop/in/8.jpg",
        ]
        assert found[0].columns["title"] == "Mug"
        rejects = [each for each in found if isinstance(each, Reject)]
        assert [each.field for each in rejects] == ["ID", "image link", "image link"]
        assert f"{name}, line 5: accepted: links under https://cdn.shop.com/" in rejects[1].reason
        assert rejects[1].row["id"] == "19"  # type: ignore[index]


def test_a_product_of_very_many_pictures_is_one_reject() -> None:
    """Each would be a row that holds its item: a megabyte of feed would fill gigabytes."""
    links = ["https://cdn.shop.com/2.jpg"] * 101
    cells = {"id": "1", "image_link": "https://cdn.shop.com/1.jpg", "additional_image_link": links}
    reader = TableReader("s3://feeds/feed.xml", SHOP, None)
    (reject,) = reader.read([Row(1, cells)])
    assert isinstance(reject, Reject)
    assert "accepted: at most 100 more links; given 101" in reject.reason
    assert len([*reader.read([Row(1, cells | {"additional_image_link": links[1:]})])]) == 101


def test_web_links_without_a_place_for_them_name_what_is_missing(read: Read) -> None:
    (reject,) = read("feed.csv", "id,image_link\n1,https://cdn.shop.com/1.jpg\n", None)
    assert "links_from and links_to map web links to S3" in reject.reason


STRAY = (  # a title that begins with a quote, and one that ends in an inch mark
    'id\ttitle\tdescription\timage_link\n2\tMug\tx\t{0}2.jpg\n3\t"Retro poster\tx\t{0}3.jpg\n'
    '4\tPlain\tx\t{0}4.jpg\n5\tFrame 20"\tx\t{0}5.jpg\n6\tBowl\tx\t{0}6.jpg\n'
).format("https://cdn.shop.com/")


def test_a_quote_in_a_title_costs_no_product_and_swaps_no_picture(read: Read) -> None:
    found = read("feed.txt", STRAY)
    assert {each.row_id: each.uri for each in found} == {
        n: f"s3://shop/in/{n}.jpg" for n in "23456"
    }
    found = read("feed.csv", STRAY.replace("\t", ","))
    assert [each.row_id for each in found if isinstance(each, SourcePicture)] == [
        "2",
        "4",
        "5",
        "6",
    ]
    (reject,) = (each for each in found if isinstance(each, Reject))
    assert reject.reason.startswith("feed.csv, line 3: unreadable CSV: a quoted cell that begins")
    assert reject.row == '3,"Retro poster,x,https://cdn.shop.com/3.jpg\n'
    shopify = SHOPIFY.replace('"<p>A mug,\nand a line</p>"', '"A mug')
    found = read("products.csv", shopify)
    assert [type(each) for each in found] == [
        Reject,
        SourcePicture,
        Skipped,
        SourcePicture,
        SourcePicture,
    ]


def test_a_feed_without_a_picture_says_so_by_its_name(read: Read) -> None:
    text = "Handle,Title,Image Src,Image Position\nmug,Mug,,\nbag,Bag,,\n"
    with pytest.raises(CatalogError, match=r"^feed.csv: no row has a picture \(2 rows without\)"):
        read("feed.csv", text)
    with pytest.raises(CatalogError, match=r"^feed.csv: no rows after the header; .*'image_link'"):
        read("feed.csv", "id,image_link\n")
    (reject,) = read("feed.csv", "id,image_link\n1,\n")
    assert isinstance(reject, Reject)  # which says why there is none


def test_a_link_may_not_climb_out_of_where_it_leads(read: Read) -> None:
    for path in ("a/../../x.jpg", "%2e%2e/x.jpg", "a/./b.jpg", "x%00.jpg", "x" * 3000):
        (reject,) = read("feed.csv", f"id,image_link\n1,https://cdn.shop.com/{path}\n")
        assert isinstance(reject, Reject), path


SHOPIFY = (
    "Handle,Title,Body (HTML),Image Src,Image Position,Variant SKU\n"
    'red-mug,Red mug,"<p>A mug,\nand a line</p>",https://cdn.shop.com/m1.jpg?v=1,1,S\n'
    "red-mug,,,https://cdn.shop.com/m2.jpg?v=1,2,M\n"
    "red-mug,,,,,L\n"
    "cup,Cup,,https://cdn.shop.com/c.jpg,,\n"
    "cup,,,https://cdn.shop.com/d.jpg,,\n"
)


def test_shopifys_export_has_further_pictures_and_rows_without_any(read: Read) -> None:
    found = read("products.csv", SHOPIFY)
    taken = [each for each in found if isinstance(each, SourcePicture)]
    assert [each.uri.rpartition("/")[2] for each in taken] == ["m1.jpg", "m2.jpg", "c.jpg", "d.jpg"]
    assert taken[0].row_id == "red-mug"
    assert taken[1].row_id == row_id_of("red-mug", 2)
    assert (taken[2].row_id, taken[3].row_id) == ("cup", row_id_of("cup", 2))
    assert [each.name for each in found if isinstance(each, Skipped)] == ["line 5"]
    main = read("products.csv", SHOPIFY, main_only=True)
    assert [each.row_id for each in main if isinstance(each, SourcePicture)] == ["red-mug", "cup"]


def test_a_table_of_ones_own_needs_an_image_only(read: Read, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "image": "s3://any/a.png", "mask": {"box": [0, 0, 1, 1]}, "colour": "red"},
        {"image": "s3://any/deep/b.png", "mask": "masks/b.png", "task": "fill", "prompt": "x"},
        {"id": 7, "image": "c.png"},
        {"id": "d"},
        {"id": "e", "image": 3.5},
    ]
    found = read("own.jsonl", "\n".join(map(json.dumps, rows)))
    first, second, third, fourth, fifth = found
    assert (first.row_id, first.names) == ("a", ("a", "a", "s3://any/a.png"))
    assert first.mask == {"box": [0, 0, 1, 1]}
    assert second.row_id.startswith("b-")
    assert second.name == "b"
    assert second.mask == str(tmp_path / "masks/b.png")
    assert (third.row_id, third.uri) == ("7", str(tmp_path / "c.png"))
    assert (fourth.field, fourth.reason) == ("image", "own.jsonl, line 4: missing")
    assert isinstance(
        fifth, SourcePicture
    )  # a picture called 3.5: the plan says that there is none
    pyarrow.parquet.write_table(
        pyarrow.table({"id": [1], "image": ["s3://any/x.png"]}), tmp_path / "o.parquet"
    )
    (row,) = read("o.parquet", (tmp_path / "o.parquet").read_bytes())
    assert row.row_id == "1"


def test_a_table_from_s3_names_its_own_bucket_only(tmp_path: Path) -> None:
    rows = [
        Row(2, {"image": "s3://shop/a.png"}),
        Row(3, {"image": "s3://other/a.png"}),
        Row(4, {"image": "/etc/passwd"}),
        Row(5, {"image": "s3://shop/a.png", "mask": "/x"}),
    ]
    found = list(TableReader("s3://shop/t.csv", None, None).read(rows))
    assert [type(each) for each in found] == [SourcePicture, Reject, Reject, Reject]
    allowed = list(TableReader("s3://shop/t.csv", None, ("other",)).read(rows))
    assert [type(each) for each in allowed] == [Reject, SourcePicture, Reject, Reject]


def test_a_table_without_pictures_says_what_it_has(read: Read) -> None:
    with pytest.raises(CatalogError, match=r"accepted: a table with the column image.*colour, id"):
        read("own.csv", "id,colour\n1,red\n")
    with pytest.raises(CatalogError, match="separated by tabs"):
        read("feed.tsv", "id,image_link\n1,x\n")
    with pytest.raises(CatalogError, match="no such catalog"):
        list(pictures(SourcePlace("source", "/no/such.csv"), None))  # type: ignore[arg-type]


# ---------------------------------------------------------------- prefixes, albums, masks


def test_a_prefix_gives_its_pictures_in_key_order_and_counts_the_rest(
    store: Store, prefix: str
) -> None:
    for key in ("b.JPG", "a/x.webp", "notes.txt", "a/", "noext", "c.avif", "c.gif", "d.png/e"):
        store.put(f"{prefix}/in/{key}", b"x", "image/png")
    store.put(f"{prefix}/in-other/z.png", b"x", "image/png")
    found = list(pictures(SourcePlace("source", f"{prefix}/in"), store))
    taken = [each for each in found if isinstance(each, SourcePicture)]
    assert [each.name for each in taken] == ["a/x", "b", "c"]
    assert [each.row_id for each in taken] == [row_id_of("a/x.webp"), "b.JPG", "c.avif"]
    assert sum(isinstance(each, Skipped) for each in found) == 5
    with pytest.raises(CatalogError, match=r"source: no picture under .*/none/.*0 other files"):
        list(pictures(SourcePlace("source", f"{prefix}/none"), store))
    with pytest.raises(CatalogError, match=r"source: .*does not exist"):
        list(pictures(SourcePlace("source", "s3://no-such-bucket/in"), store))


@contextmanager
def album(tmp_path: Path, each: list[Any], what: str = "garment") -> Iterator[Album]:
    with Album.on_disk(tmp_path / f"{what}.sqlite", what) as made:
        list(made.fill(each))
        yield made


def picture(name: str, **columns: Any) -> SourcePicture:
    return SourcePicture(
        f"s3://b/{name}.png", name, (name, f"{name}.png", f"s3://b/{name}.png"), columns=columns
    )


def test_an_album_finds_by_name_and_keeps_the_place_of_what_it_refused(tmp_path: Path) -> None:
    shirts = [
        picture("a", colour="red"),
        Reject(2, None, "x", ""),
        Skipped("n"),
        picture("b"),
        SourcePicture("s3://c/b.png", "b2", ("b", "s3://c/b.png")),
    ]
    with album(tmp_path, shirts) as found:
        assert (found.places, found.pictures) == (4, 3)
        assert [each.row_id for each in found] == ["a", "b", "b2"]
        assert found.at(1) is None
        for name in ("a", "a.png", "s3://b/a.png"):
            assert found.find("garment", name) == shirts[0]
        with pytest.raises(BadRow, match="no garment is called 'c'"):
            found.find("garment", "c")
        with pytest.raises(BadRow, match="the name of one garment; 'b' may be"):
            found.find("garment", "b")
        assert found.columns(9) == ["colour"]


def test_masks_are_found_by_name(store: Store, prefix: str, tmp_path: Path) -> None:
    for key in ("anna.png", "summer/eva.png", "twice.png", "twice.webp"):
        store.put(f"{prefix}/masks/{key}", b"x", "image/png")
    with open_masks("masks", f"{prefix}/masks", store, tmp_path, optional=False) as rule:
        assert rule(picture("anna")) == f"{prefix}/masks/anna.png"
        assert rule(picture("summer/eva")) == f"{prefix}/masks/summer/eva.png"
        assert rule(picture("eva")) == f"{prefix}/masks/summer/eva.png"
        for name in ("twice", "otto"):
            with pytest.raises(BadRow):
                rule(picture(name))


def test_a_mask_may_be_called_mask(store: Store, prefix: str, tmp_path: Path) -> None:
    """As data sets of try-on have them."""
    for key in ("00001_00_mask.png", "b.png", "b_mask.png"):
        store.put(f"{prefix}/masks/{key}", b"x", "image/png")
    with open_masks("masks", f"{prefix}/masks", store, tmp_path, optional=False) as rule:
        assert rule(picture("00001_00")) == f"{prefix}/masks/00001_00_mask.png"
        assert rule(picture("b")) == f"{prefix}/masks/b.png"
        with pytest.raises(BadRow, match="no mask is called 'c' or 'c_mask'"):
            rule(picture("c"))


@pytest.mark.parametrize(("rule", "mask"), [("auto", "auto"), ("alpha", "alpha"), ("none", None)])
def test_one_keyword_is_a_rule_for_all(rule: str, mask: str | None, tmp_path: Path) -> None:
    with open_masks("mask", rule, None, tmp_path, optional=True) as found:  # type: ignore[arg-type]
        assert found(picture("a")) == mask


def test_a_column_of_masks_has_one_for_each(tmp_path: Path) -> None:
    with open_masks("mask", "column", None, tmp_path, optional=True) as rule:  # type: ignore[arg-type]
        assert rule(SourcePicture("s3://b/a.png", "a", ("a",), "s3://b/m.png")) == "s3://b/m.png"
        with pytest.raises(BadRow, match="missing"):
            rule(picture("a"))
    for value, optional in (("none", False), ("magic", True), ("masks/", True)):
        with (
            pytest.raises(SettingsError, match="mask: accepted: alpha, auto, column"),
            open_masks("mask", value, None, tmp_path, optional=optional),  # type: ignore[arg-type]
        ):
            pass
