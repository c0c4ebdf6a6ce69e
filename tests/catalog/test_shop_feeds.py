"""Test feeds as shops write them. If these break, a shop's export is refused for a form that its own
tools write, or a product has the picture, the mask or the row of another."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ace_tasks.catalog.files import Reject, Table, read_rows
from ace_tasks.catalog.readers.encodings import codec_of
from ace_tasks.catalog.sources.album import Album
from ace_tasks.catalog.sources.links import Links, links_of
from ace_tasks.catalog.sources.mask_files import open_masks
from ace_tasks.catalog.sources.merchant import read_feed
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures
from ace_tasks.catalog.sources.source_picture import Skipped, SourcePicture, row_id_of
from ace_tasks.catalog.sources.tables import TableReader
from ace_tasks.errors import BadRow, CatalogError, SettingsError
from ace_tasks.store import Store

SHOP = Links.named("https://cdn.shop.test/files/", "s3://shop/files")
CDN = "https://cdn.shop.test/files"
RSS = (
    '<?xml version="1.0"{}?>\n<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel>'
    "<title>S</title>{}</channel></rss>\n"
)
Read = Callable[..., list[Any]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a feed and read it: read(name, content) → its pictures, rejects and what it skips."""

    def read(name: str, content: str | bytes, encoding: str = "", **more: Any) -> list[Any]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        place = SourcePlace("source", str(path), SHOP, encoding=encoding, **more)
        return list(pictures(place, None))  # type: ignore[arg-type]  # a local file needs no store

    return read


def taken(found: Iterable[Any]) -> list[tuple[str, str]]:
    """(row id, file) of each picture."""
    return [
        (each.row_id, each.uri.removeprefix("s3://shop/files/"))
        for each in found
        if isinstance(each, SourcePicture)
    ]


def reject_reasons(found: Iterable[Any]) -> list[str]:
    return [f"{each.field}: {each.reason}" for each in found if isinstance(each, Reject)]


def passed_over(found: Iterable[Any]) -> list[tuple[str, str]]:
    return [(each.name, each.why) for each in found if isinstance(each, Skipped)]


def product(row_id: str, link: str, more: str = "") -> str:
    return f"<item><g:id>{row_id}</g:id><g:image_link>{link}</g:image_link>{more}</item>"


# ---------------------------------------------------------------- Shopify

CURRENT = (
    "Title,URL handle,Description,SKU,Option1 value,Product image URL,Image position,"
    "Variant image URL,Gift card\n"
    f"Mug,mug,<p>Mug</p>,M1,Blue,{CDN}/mug-1.jpg?v=1,1,{CDN}/mug-blue.jpg?v=1,FALSE\n"
    f",mug,,M2,Red,{CDN}/mug-2.jpg?v=1,2,{CDN}/mug-red.jpg?v=1,\n"
    f"Bag,bag,,B1,Default Title,{CDN}/bag.png?v=2,1,,FALSE\n"
)


def test_shopifys_current_template_has_galleries_and_pictures_of_variants(read: Read) -> None:
    found = read("feed.csv", CURRENT)
    assert [file for _, file in taken(found)] == [
        "mug-1.jpg",
        "mug-2.jpg",
        "bag.png",
        "mug-blue.jpg",
        "mug-red.jpg",
    ]
    ids = [row_id for row_id, _ in taken(found)]
    assert ids[:3] == ["mug", row_id_of("mug", 2), "bag"]
    assert [row_id.rpartition("-")[0] for row_id in ids[3:]] == ["mug-mug-blue", "mug-mug-red"]
    assert found[0].where == "feed.csv, line 2"
    assert taken(read("feed.csv", CURRENT, main_only=True)) == [
        ("mug", "mug-1.jpg"),
        ("bag", "bag.png"),
    ]


def test_a_product_that_repeats_its_picture_in_every_row_has_one(read: Read) -> None:
    head = "Handle,Title,Option1 Value,Image Src,Image Position,Variant Image\n"
    rows = "".join(f"tee,Tee,{size},{CDN}/tee.jpg,1,{CDN}/tee.jpg\n" for size in "SML")
    found = read("feed.csv", head + rows)
    assert taken(found) == [("tee", "tee.jpg")]
    assert passed_over(found) == [
        ("line 3, as line 2", "the same picture again"),
        ("line 4, as line 2", "the same picture again"),
    ]
    assert reject_reasons(found) == []


def test_a_picture_of_a_variant_that_a_later_row_shows_is_the_gallerys(read: Read) -> None:
    head = "Handle,Image Src,Image Position,Variant Image\n"
    found = read("f.csv", f"{head}tee,{CDN}/1.jpg,1,{CDN}/2.jpg\ntee,{CDN}/2.jpg,2,\n")
    assert taken(found) == [("tee", "1.jpg"), (row_id_of("tee", 2), "2.jpg")]
    assert passed_over(found) == []


def test_links_in_variant_rows_alone_are_all_of_a_product(read: Read) -> None:
    head = "Handle,Title,Image Src,Variant Image\n"
    rows = f"tee,Tee,,{CDN}/red.jpg\ntee,,,{CDN}/blue.jpg\ntee,,,{CDN}/red.jpg\nbag,,,\n"
    found = read("feed.csv", head + rows)
    assert taken(found)[0] == ("tee", "red.jpg")
    assert taken(found)[1][1] == "blue.jpg"
    assert [why for _, why in passed_over(found)] == ["without a picture", "the same picture again"]
    assert taken(read("feed.csv", head + rows, main_only=True)) == [("tee", "red.jpg")]


def test_another_link_at_the_same_position_is_another_picture(read: Read) -> None:
    head = "Handle,Image Src,Image Position\n"
    rows = f"tee,{CDN}/red.jpg,1\ntee,{CDN}/blue.jpg,1\ntee,{CDN}/green.jpg,2\n"
    found = read("feed.csv", head + rows)
    assert reject_reasons(found) == []
    assert [file for _, file in taken(found)] == ["red.jpg", "blue.jpg", "green.jpg"]
    assert taken(found)[0][0] == "tee"
    assert taken(found)[1][0].startswith("tee-blue-")
    assert taken(found)[2][0] == row_id_of("tee", 2)


def test_rows_in_any_order_without_positions_lose_no_picture(read: Read) -> None:
    head = "Handle,Image Src\n"
    rows = [
        ("bag", "b1"),
        ("mug", "m1"),
        ("bag", "b2"),
        ("mug", "m2"),
        ("bag", "b1"),
        ("mug", "m3"),
    ]
    found = read("feed.csv", head + "".join(f"{p},{CDN}/{f}.jpg\n" for p, f in rows))
    assert reject_reasons(found) == []
    assert sorted(file for _, file in taken(found)) == [
        "b1.jpg",
        "b2.jpg",
        "m1.jpg",
        "m2.jpg",
        "m3.jpg",
    ]
    assert len({row_id for row_id, _ in taken(found)}) == 5
    assert taken(read("feed.csv", head + rows_of(rows), main_only=True)) == [
        ("bag", "b1.jpg"),
        ("mug", "m1.jpg"),
    ]


def rows_of(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{handle},{CDN}/{file}.jpg\n" for handle, file in rows)


@pytest.mark.parametrize(
    ("positions", "main"),
    [
        pytest.param(("2", "3"), "1.jpg", id="begin at 2"),
        pytest.param(("3", "2"), "2.jpg", id="begin at 2, sorted otherwise"),
        pytest.param(("", ""), "1.jpg", id="none"),
        pytest.param(("first", "2nd"), "1.jpg", id="no numbers"),
        pytest.param(("2", "1"), "2.jpg", id="backwards"),
    ],
)
def test_main_only_takes_the_first_picture_of_each_product(
    read: Read, positions: tuple[str, str], main: str
) -> None:
    rows = "".join(f"mug,{CDN}/{n}.jpg,{p}\n" for n, p in enumerate(positions, start=1))
    found = read("feed.csv", "Handle,Image Src,Image Position\n" + rows, main_only=True)
    assert [file for _, file in taken(found)] == [main]
    assert [why for _, why in passed_over(found)] == ["another picture of its product"]
    every = read("feed.csv", "Handle,Image Src,Image Position\n" + rows)
    assert set(taken(found)) <= set(taken(every))  # the same row, whichever run makes it


def test_an_export_that_names_no_picture_says_which_columns_may_have_been_meant(read: Read) -> None:
    columns = [f"Metafield {n}" for n in range(40)] + ["URL handle", "Picture file"]
    with pytest.raises(CatalogError, match=r"columns are picture_file, url_handle, .* and 30 more"):
        read("feed.csv", ",".join(columns) + "\n" + "x," * 41 + "x\n")


def test_an_id_with_two_pictures_is_reported_by_the_feeds_own_lines(read: Read) -> None:
    text = f"id,image_link\n7,{CDN}/a.jpg\n7,{CDN}/a.jpg?v=2\n7,{CDN}/b.jpg\n"
    found = read("google.csv", text)
    assert taken(found) == [("7", "a.jpg")]
    assert passed_over(found) == [("line 3, as line 2", "the same picture again")]
    assert reject_reasons(found) == [
        "id: google.csv, line 4: accepted: an id used once; '7' is used in line 2 as well, with "
        "another picture"
    ]


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("cell", "links"),
    [
        pytest.param(
            "https://a/1.jpg,https://a/2.jpg", ["https://a/1.jpg", "https://a/2.jpg"], id="comma"
        ),
        pytest.param(
            "https://a/1.jpg , //a/2.jpg,",
            ["https://a/1.jpg", "//a/2.jpg"],
            id="spaces, no scheme, comma at the end",
        ),
        pytest.param(
            "https://a/1.jpg\nhttp://a/2.jpg", ["https://a/1.jpg", "http://a/2.jpg"], id="lines"
        ),
        pytest.param("https://a/1.jpg|s3://a/2.jpg", ["https://a/1.jpg", "s3://a/2.jpg"], id="bar"),
        pytest.param(
            "https://a/x,y.jpg,https://a/a, b.jpg",
            ["https://a/x,y.jpg", "https://a/a, b.jpg"],
            id="commas in paths",
        ),
        pytest.param(
            "https://a/w_1,h_1/https://b/1.jpg",
            ["https://a/w_1,h_1/https://b/1.jpg"],
            id="a link in a path",
        ),
        pytest.param(
            ["https://a/1.jpg", None, "", "https://a/2.jpg,https://a/3.jpg"],
            ["https://a/1.jpg", "https://a/2.jpg", "https://a/3.jpg"],
            id="list",
        ),
        pytest.param(None, [], id="none"),
    ],
)
def test_a_cell_may_hold_several_links(cell: Any, links: list[str]) -> None:
    assert links_of(cell) == links


def test_a_list_of_links_is_one_in_xml_as_well(read: Read) -> None:
    more = f"<g:additional_image_link>{CDN}/1b.jpg,{CDN}/1c.jpg</g:additional_image_link>"
    more += f"<g:additional_image_link>{CDN}/1d.jpg</g:additional_image_link>"
    found = read("feed.xml", RSS.format("", product("1", f"{CDN}/1.jpg", more)))
    assert [file for _, file in taken(found)] == ["1.jpg", "1b.jpg", "1c.jpg", "1d.jpg"]
    twice = f"<g:image_link>{CDN}/2.jpg</g:image_link>"
    found = read("feed.xml", RSS.format("", product("1", f"{CDN}/1.jpg", twice)))
    assert [file for _, file in taken(found)] == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    "link",
    [
        "//cdn.shop.test/files/1.jpg",
        "http://cdn.shop.test/files/1.jpg",
        "HTTPS://CDN.shop.test:443/files/1.jpg",
        "cdn.shop.test/files/1.jpg",
    ],
)
def test_a_link_may_have_any_scheme_of_the_web_or_none(read: Read, link: str) -> None:
    for name, text in (
        ("feed.xml", RSS.format("", product("1", link))),
        ("feed.csv", f"id,image_link\n1,{link}\n"),
        ("feed.tsv", f"id\timage_link\n1\t{link}\n"),
    ):
        assert taken(read(name, text)) == [("1", "1.jpg")], name


def test_a_link_without_a_scheme_is_never_a_local_file() -> None:
    (row,) = TableReader("/feeds/t.csv", None, None).read(_rows({"image": "//etc/passwd"}))
    assert isinstance(row, Reject)
    assert "links_from and links_to map web links" in row.reason


@pytest.mark.parametrize("link", ["http:/cdn.shop.test/files/1.jpg", "https:cdn.shop.test/1.jpg"])
def test_a_link_whose_slashes_are_lost_is_no_file_beside_the_feed(read: Read, link: str) -> None:
    (reject,) = read("feed.csv", f"id,image_link\n1,{link}\n")
    assert reject.field == "image_link"
    assert f"accepted: a web link with https://; given '{link}'" in reject.reason


def _rows(*cells: dict[str, Any]) -> list[Any]:
    from ace_tasks.catalog.files import Row

    return [Row(n, each) for n, each in enumerate(cells, start=2)]


@pytest.mark.parametrize("element", ["g:id", "g:image_link", "g:additional_image_link"])
def test_an_element_within_a_link_is_a_reject(read: Read, element: str) -> None:
    cells = {"g:id": "1", "g:image_link": f"{CDN}/1.jpg", "g:additional_image_link": f"{CDN}/2.jpg"}
    cells[element] += "<b>a</b>"
    text = "".join(f"<{name}>{cell}</{name}>" for name, cell in cells.items())
    found = read("feed.xml", RSS.format("", f"\n<item>{text}</item>{product('2', CDN + '/3.jpg')}"))
    assert taken(found) == [("2", "3.jpg")]
    assert reject_reasons(found) == [
        f"{element[2:]}: feed.xml, line 3: accepted: only text; this one contains an element 'b'"
    ]


def test_an_item_without_a_picture_does_not_refuse_the_feed(read: Read) -> None:
    found = read(
        "f.xml", RSS.format("", "<item><g:id>1</g:id></item>" + product("2", CDN + "/2.jpg"))
    )
    assert taken(found) == [("2", "2.jpg")]
    assert len(reject_reasons(found)) == 1


# ---------------------------------------------------------------- encodings

ENCODED = [  # (as files call it, Python's codec, a title)
    pytest.param("Shift_JIS", "cp932", "マグ①髙", id="Shift_JIS"),
    pytest.param("EUC-JP", "euc_jp", "マグカップ", id="EUC-JP"),
    pytest.param("ISO-2022-JP", "iso2022_jp", "マグ", id="ISO-2022-JP"),
    pytest.param("GBK", "gbk", "杯子", id="GBK"),
    pytest.param("GB2312", "gbk", "杯子镕", id="GB2312"),
    pytest.param("GB18030", "gb18030", "杯子", id="GB18030"),
    pytest.param("Big5", "big5", "杯子", id="Big5"),
    pytest.param("EUC-KR", "cp949", "머그컵똠", id="EUC-KR"),
    pytest.param("ks_c_5601-1987", "euc_kr", "머그컵", id="KS C 5601"),
    pytest.param("windows-1251", "cp1251", "Кружка", id="windows-1251"),
    pytest.param("ISO-8859-1", "latin-1", "Größe", id="ISO-8859-1"),
    pytest.param("x-sjis", "cp932", "マグ", id="x-sjis"),
    pytest.param("Windows-31J", "cp932", "マグ①髙", id="Windows-31J"),
    pytest.param("UTF-8", "utf-8", "マグ", id="UTF-8"),
]


@pytest.mark.parametrize(("name", "codec", "title"), ENCODED)
def test_a_feed_is_read_in_its_own_encoding(read: Read, name: str, codec: str, title: str) -> None:
    xml = RSS.format(f' encoding="{name}"', product("1", f"{CDN}/1.jpg", f"<title>{title}</title>"))
    (picture,) = read("feed.xml", xml.encode(codec))
    assert (picture.columns["title"], picture.uri) == (title, "s3://shop/files/1.jpg")
    for suffix, delimiter in (("csv", ","), ("tsv", "\t"), ("txt", "\t")):
        text = f"id,title,image_link\n1,{title},{CDN}/1.jpg\n".replace(",", delimiter)
        (picture,) = read(f"feed.{suffix}", text.encode(codec), name)
        assert (picture.columns["title"], picture.uri) == (title, "s3://shop/files/1.jpg")
        if codec not in {"utf-8", "iso2022_jp"}:  # which is ASCII with escapes
            (reject,) = read(f"feed.{suffix}", text.encode(codec))
            assert "this row is in another encoding; --encoding names it" in reject.reason


def test_a_table_in_utf_16_says_so_itself(read: Read) -> None:
    text = f"id\ttitle\timage_link\n1\tマグ\t{CDN}/1.jpg\n"
    for encoding in ("utf-16", "utf-16-be"):
        data = text.encode(encoding)
        (picture,) = read("feed.txt", data if encoding == "utf-16" else b"\xfe\xff" + data)
        assert picture.columns["title"] == "マグ"


@pytest.mark.parametrize("declares", ["", ' encoding="utf-8"', ' encoding="UTF-16"'])
@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_the_first_bytes_of_xml_overrule_what_it_declares(
    read: Read, codec: str, declares: str
) -> None:
    """An editor that saves a feed in another encoding leaves its declaration as it was."""
    xml = RSS.format(declares, product("1", f"{CDN}/1.jpg", "<title>マグ</title>"))
    (picture,) = read("feed.xml", xml.encode(codec))
    assert picture.columns["title"] == "マグ"


def test_bytes_of_no_encoding_are_reported_by_their_file_and_row(read: Read) -> None:
    text = f"id,title,image_link\n1,マグ,{CDN}/1.jpg\n2,a,{CDN}/2.jpg\n".encode("cp932")
    broken = text.replace("マ".encode("cp932"), b"\x81\x3f")
    found = read("feed.csv", broken, "shift_jis")
    assert taken(found) == [("2", "2.jpg")]
    assert reject_reasons(found) == [
        "None: feed.csv, line 2: accepted: text in shift_jis; this row holds other bytes"
    ]
    xml = RSS.format(' encoding="Shift_JIS"', product("1", "x", "<title>T</title>")).encode()
    with pytest.raises(
        CatalogError, match=r"^feed.xml: unreadable XML: bytes that are not cp932 text"
    ):
        read("feed.xml", xml.replace(b">T<", b">\x81\x3f<"))
    xml = RSS.format("", product("1", "x", "<title>マグ</title>")).encode("cp932")
    with pytest.raises(
        CatalogError, match=r"^feed.xml: unreadable XML: .*needs its encoding in the first"
    ):
        read("feed.xml", xml)
    header = f"id,title マ,image_link\n1,a,{CDN}/1.jpg\n".encode("cp932")
    with pytest.raises(CatalogError, match=r"^feed.csv: the header is not UTF-8 text; --encoding"):
        read("feed.csv", header)


STRANGE = [
    "klingon",
    "utf-7",
    "rot13",
    "zlib",
    "base64",
    "punycode",
    "unicode_escape",
    "idna",
    "utf-32",
    "mbcs",
    "\x00",
    "é",
]


@pytest.mark.parametrize("name", [pytest.param(each, id=ascii(each)) for each in STRANGE])
def test_an_encoding_that_is_none_is_refused_with_a_reason(read: Read, name: str) -> None:
    with pytest.raises(SettingsError, match="encoding: accepted encodings: UTF-8, Shift_JIS"):
        SourcePlace("source", "feed.csv", encoding=name)
    if name.isascii() and name.isprintable():
        declared = RSS.format(f' encoding="{name}"', product("1", "x"))
        with pytest.raises(
            CatalogError, match=r"^feed.xml: unreadable XML: accepted encodings: UTF-8"
        ):
            read("feed.xml", declared)


def test_every_encoding_that_is_accepted_is_a_superset_of_ascii() -> None:
    ascii_text = bytes(range(0x20, 0x7F)).decode()
    for _, name in ((each.id, each.values[0]) for each in ENCODED):
        assert bytes(range(0x20, 0x7F)).decode(codec_of(str(name))) == ascii_text, name


# ---------------------------------------------------------------- what lies under a prefix


def test_jpegs_of_every_name_are_taken_and_what_systems_write_is_not(
    store: Store, prefix: str
) -> None:
    for key in (
        "a.jfif",
        "b.JPE",
        "c.jpg",
        "d.pjpeg",
        "._c.jpg",
        "__MACOSX/._c.jpg",
        "x/._y.png",
        "__MACOSX/c.jpg",
        ".DS_Store",
        "Thumbs.db",
        "sub/@eaDir/c.jpg",
        "n.txt",
    ):
        store.put(f"{prefix}/in/{key}", b"x", "image/jpeg")
    found = list(pictures(SourcePlace("source", f"{prefix}/in"), store))
    assert [each.row_id for each in found if isinstance(each, SourcePicture)] == [
        "a.jfif",
        "b.JPE",
        "c.jpg",
        "d.pjpeg",
    ]
    whys = {each.name: each.why for each in found if isinstance(each, Skipped)}
    assert whys.pop("n.txt") == "no picture"
    assert len(whys) == 7
    assert set(whys.values()) == {"written by the system"}


# ---------------------------------------------------------------- names

NFC, NFD = "Zo\u00eb", "Zoe\u0308"


@pytest.fixture
def people(store: Store, prefix: str, tmp_path: Path) -> Iterable[Album]:
    for key in (f"{NFD}.jpg", "summer/anna.jpg", "summer/twin.jpg", "winter/twin.jpg", "top.jpg"):
        store.put(f"{prefix}/people/{key}", b"x", "image/jpeg")
    with Album.on_disk(tmp_path / "people.sqlite", "person") as album:
        assert list(album.fill(pictures(SourcePlace("people", f"{prefix}/people"), store))) == []
        yield album


@pytest.mark.parametrize(
    ("name", "key"),
    [
        pytest.param(NFC, f"{NFD}.jpg", id="composed"),
        pytest.param(f"{NFC}.jpg", f"{NFD}.jpg", id="composed, with its ending"),
        pytest.param(NFD, f"{NFD}.jpg", id="as the key is written"),
        pytest.param("anna", "summer/anna.jpg", id="file name in a folder"),
        pytest.param("anna.jpg", "summer/anna.jpg", id="file name with its ending in a folder"),
        pytest.param("summer/twin", "summer/twin.jpg", id="key"),
    ],
)
def test_a_person_is_found_by_each_of_its_names(
    people: Album, prefix: str, name: str, key: str
) -> None:
    assert people.find("person", name).uri == f"{prefix}/people/{key}"


def test_a_name_of_two_is_reported_with_both_places(people: Album, prefix: str) -> None:
    with pytest.raises(BadRow, match=f"'twin' may be '{prefix}/people/summer/twin.jpg', .*winter"):
        people.find("person", "twin")
    with pytest.raises(BadRow, match="no person is called 'nobody'"):
        people.find("person", "nobody")


def test_a_file_in_a_table_has_its_files_name(tmp_path: Path, read: Read) -> None:
    found = read("people.csv", "id,image\n7,s3://b/deep/anna.jpg\n")
    with Album.on_disk(tmp_path / "a.sqlite", "person") as album:
        list(album.fill(found))
        for name in ("7", "anna", "anna.jpg", "s3://b/deep/anna.jpg"):
            assert album.find("person", name) == found[0]


def masks_of(
    store: Store, prefix: str, tmp_path: Path, keys: Iterable[str], found: list[SourcePicture]
) -> list[str]:
    """What each picture gets: a mask's key, or why none."""
    for key in keys:
        store.put(f"{prefix}/masks/{key}", b"x", "image/png")
    got = []
    with open_masks(
        "mask", f"{prefix}/masks", store, tmp_path, optional=True, masked=found
    ) as rule:
        for each in found:
            try:
                got.append(str(rule(each)).removeprefix(f"{prefix}/masks/"))
            except BadRow as error:
                got.append(str(error).replace(f"{prefix}/masks/", ""))
    return got


def under(folder: str, *stems: str) -> list[SourcePicture]:
    """Pictures as a prefix has them."""
    return [
        SourcePicture(
            f"s3://b/p/{stem}.jpg",
            f"{n}",
            (stem, f"{stem}.jpg", f"s3://b/p/{stem}.jpg"),
            folder=stem.rpartition("/")[0],
        )
        for n, stem in enumerate(stems)
    ]


def test_masks_of_a_feed_are_found_by_the_files_of_its_pictures(
    read: Read, store: Store, prefix: str, tmp_path: Path
) -> None:
    google = f"id,image_link,additional_image_link\nSKU-1,{CDN}/mug.jpg,{CDN}/mug-back.jpg\n"
    shopify = f"Handle,Image Src,Image Position\nm,{CDN}/mug.jpg,1\nm,{CDN}/mug-back.jpg,2\n"
    keys = ("mug.png", "deep/mug-back_mask.webp")
    for name, text in (("google.csv", google), ("shopify.csv", shopify)):
        assert masks_of(store, prefix, tmp_path, keys, read(name, text)) == list(keys)
        (tmp_path / "masks.sqlite").unlink()


MASKS = [
    pytest.param(
        ["a", "b", "c", "d"],
        ["a_mask.png", "b-mask.png", "c mask.png", "d.Mask.png"],
        ["a_mask.png", "b-mask.png", "c mask.png", "d.Mask.png"],
        id="suffixes",
    ),
    pytest.param(["a"], ["a.png", "a_mask.png"], ["a.png"], id="the bare name first"),
    pytest.param([NFD], [f"{NFC}_mask.png"], [f"{NFC}_mask.png"], id="composed otherwise"),
    pytest.param(
        ["x/a", "y/a"],
        ["x/a_mask.png", "y/a_mask.png"],
        ["x/a_mask.png", "y/a_mask.png"],
        id="folder by folder",
    ),
    pytest.param(["a"], ["deep/er/a.png"], ["deep/er/a.png"], id="masks in folders"),
    pytest.param(["deep/a"], ["a.png"], ["a.png"], id="pictures in folders"),
    pytest.param(
        ["y/a"],
        ["x/a.png"],
        ["no mask is called 'y/a' or 'a' or 'y/a_mask'; in another folder: 'x/a.png'"],
        id="another folder",
    ),
]


@pytest.mark.parametrize(("stems", "keys", "wanted"), MASKS)
def test_a_mask_is_called_as_its_picture_is(
    store: Store, prefix: str, tmp_path: Path, stems: list[str], keys: list[str], wanted: list[str]
) -> None:
    assert masks_of(store, prefix, tmp_path, keys, under("p", *stems)) == wanted


def test_one_mask_is_never_given_to_two_pictures_by_a_name_that_they_share(
    store: Store, prefix: str, tmp_path: Path
) -> None:
    got = masks_of(store, prefix, tmp_path, ["front.png"], under("p", "a/front", "b/front"))
    assert all("accepted: a mask of one picture" in each for each in got)
    assert "s3://b/p/b/front.jpg" in got[0]
    (tmp_path / "masks.sqlite").unlink()
    own, other = masks_of(store, prefix, tmp_path, ["front.png"], under("p", "front", "b/front"))
    assert own == "front.png"  # by its whole name
    assert "accepted: a mask of one picture" in other


def test_a_name_of_two_masks_is_reported(store: Store, prefix: str, tmp_path: Path) -> None:
    keys = ["x/a.png", "y/a.png", "b_mask.png", "b-mask.png"]
    for each in masks_of(store, prefix, tmp_path, keys, under("p", "a", "b")):
        assert "accepted: the name of one mask; '" in each


# ---------------------------------------------------------------- one set of rules

TITLE = st.text(st.sampled_from("abZ0 ,;&'é漢\u0308"), min_size=1, max_size=6).map(str.strip)
FILE = st.text(st.sampled_from("abc01,_ é"), min_size=1, max_size=4).map(
    lambda stem: f"{CDN}/x{stem.strip()}.jpg"
)


@st.composite
def products(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(st.sampled_from(["1", "2", "3 4", "é"]), min_size=1, max_size=5))
    return [
        {
            "id": each,
            "title": draw(TITLE.filter(bool)),
            "image_link": draw(FILE | st.just("") | st.just("//cdn.shop.test/files/z.jpg")),
            "additional_image_link": draw(st.lists(FILE, max_size=3)),
        }
        for each in ids
    ]


def as_xml(rows: list[dict[str, Any]]) -> str:
    items = []
    for row in rows:
        # A list in one element, as some write it; or an element for each.
        more = row["additional_image_link"]
        links = more if len(row["title"]) % 2 else [",".join(more)] if more else []
        cells = [("id", row["id"]), ("title", row["title"]), ("image_link", row["image_link"])]
        cells += [("additional_image_link", link) for link in links]
        items.append("".join(f"<g:{name}>{escape(cell)}</g:{name}>" for name, cell in cells))
    return RSS.format("", "".join(f"<item>{each}</item>" for each in items))


def as_table(rows: list[dict[str, Any]], delimiter: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([",".join(c) if isinstance(c, list) else c for c in row.values()])
    return out.getvalue()


@given(products())
@example([{"id": "1", "title": "a", "image_link": "", "additional_image_link": [f"{CDN}/x.jpg"]}])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_products_in_every_format_are_the_same_rows(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    (tmp_path / "f.xml").write_text(as_xml(rows))
    (tmp_path / "f.csv").write_text(as_table(rows, ","))
    (tmp_path / "f.tsv").write_text(as_table(rows, "\t"))
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def made(name: str) -> list[tuple[Any, ...]]:
        path = tmp_path / name
        read = read_feed(path) if name == "f.xml" else read_rows(path, Table(catalog=False))
        return [
            (each.row_id, each.uri, each.columns["title"])
            if isinstance(each, SourcePicture)
            else (type(each).__name__, getattr(each, "field", ""))
            for each in TableReader("s3://b/f", SHOP, None).read(read)
        ]

    assert made("f.xml") == made("f.csv") == made("f.tsv") == made("f.jsonl")
