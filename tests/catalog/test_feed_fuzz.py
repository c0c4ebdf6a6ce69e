"""Feeds with structural faults. If these break, a feed that somebody's tool spoilt ends a run with an
exception of a library, which names neither the file nor what to do."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures
from ace_tasks.catalog.sources.source_picture import Skipped, SourcePicture
from ace_tasks.errors import CatalogError

SHOP = Links.named("https://c.test/", "s3://shop/files")
XML = (
    '<?xml version="1.0" encoding="{}"?>\n<rss xmlns:g="http://base.google.com/ns/1.0"><channel>\n'
    "<item><g:id>1</g:id><title>マグ &amp; é</title><g:image_link>https://c.test/1.jpg</g:image_link>"
    "<g:additional_image_link>https://c.test/2.jpg,//c.test/3.jpg</g:additional_image_link>"
    "<g:shipping><g:country>JP</g:country></g:shipping></item>\n"
    "<item><g:id>2</g:id><title><![CDATA[A <b>mug</b>]]></title>"
    "<g:image_link>https://c.test/4.jpg</g:image_link></item>\n</channel></rss>"
)
GOOGLE = (
    "id,title,image_link,additional_image_link\n"
    '1,マグ,https://c.test/1.jpg,"https://c.test/2.jpg,https://c.test/3.jpg"\n'
    '2,"A ""mug"",\nand a line",https://c.test/4.jpg,\n3,c,https://c.test/5.jpg\n'
)
SHOPIFY = (
    "Title,URL handle,Product image URL,Image position,Variant image URL\n"
    "Mug,mug,https://c.test/1.jpg,1,https://c.test/2.jpg\n,mug,https://c.test/3.jpg,2,\n"
    ",mug,,,https://c.test/1.jpg\nBag,bag,https://c.test/4.jpg,,\n"
)
JSONL = (
    '{"id": "1", "image_link": "https://c.test/1.jpg", "additional_image_link": ["//c.test/2.jpg"]}\n'
    '{"id": 2, "image_link": "https://c.test/3.jpg", "title": "\\u00e9"}\n'
)
FEEDS = [  # (name, text)
    ("feed.xml", XML),
    ("feed.csv", GOOGLE),
    ("feed.csv", SHOPIFY),
    ("feed.txt", GOOGLE.replace('"', "").replace(",", "\t")),
    ("feed.jsonl", JSONL),
]
ENCODINGS = [
    "utf-8",
    "Shift_JIS",
    "gbk",
    "euc-jp",
    "iso-2022-jp",
    "utf-16",
    "UTF-8-SIG",
    "big5",
    "windows-1252",
    "utf-7",
    "klingon",
    "",
    "utf-16le",
    "\x00",
]
TOKENS = [
    *[
        each.encode()
        for each in ('"', '""', '"\n', ",", "\t", "\n", "\r", "\r\n", "\x00", "\x1a", "{")
    ],
    *[each.encode() for each in ("<b>", "</b>", "</item>", "<item>", "<g:id/>", "<g:image_link>")],
    *[each.encode() for each in ("<![CDATA[", "]]>", "<!--", "-->", "&", "&#0;", "&#x1b;", "&x;")],
    *[each.encode() for each in ("<!DOCTYPE r>", "<?xml ?>", '<?xml version="1.1"?>', "<x:y>")],
    *[
        each.encode()
        for each in ("https://", "//", "s3://", "s3://b/", "..", "%00", "%ff", "?", "[")
    ],
    *[
        each.encode()
        for each in ("1e999", "NaN", "null", "[[[[", "\\ud800", "\u202e", "\U0001f600")
    ],
    b"\xff",
    b"\xfe\xff",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x81",
    b"\x83\x5c",
    b"\x1b$B",
    b"\x80",
]


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, bytes, str]:
    """(file name, content, encoding that the run names): a good feed with a few changes."""
    name, text = draw(st.sampled_from(FEEDS))
    declared = draw(st.sampled_from(ENCODINGS))
    written = draw(st.sampled_from([declared, declared, *ENCODINGS]))
    text = text.replace("{}", declared, 1) if name == "feed.xml" else text
    try:
        content = text.encode(written or "utf-8", "replace")
    except (LookupError, ValueError):
        content = text.encode()
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.sampled_from([0, 0, 1, 2, 7, 40, 4000])))
        inserted = draw(st.sampled_from([b"", content[begin:end] * 2, *TOKENS]))
        content = content[:begin] + inserted + content[end:]
    if draw(st.integers(0, 5)) == 0:
        content, name = gzip.compress(content, mtime=0), f"{name}.gz"
        cut = draw(st.integers(0, len(content)))
        content = content[:cut] + draw(st.sampled_from([content[cut:], b"", b"\x00" * 9]))
    return name, content, draw(st.sampled_from(["", "", "shift_jis", "gbk", "utf-8"]))


@given(spoilt(), st.booleans())
@example(("feed.xml", XML.format("Shift_JIS").encode("cp932", "replace"), ""), False)
@example(("feed.csv", b"\t", ""), False)
@example(("feed.xml.gz", gzip.compress(XML.encode(), mtime=0)[:40] + bytes(9), ""), False)
@example(("feed.xml", XML.format("klingon").encode("utf-16"), ""), False)
@example(("feed.xml", XML.format("\x00").encode(), ""), False)
@example(("feed.csv", b"\xff\xfe" + GOOGLE.encode("utf-16-le")[:-1], ""), True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_spoilt_feed_is_rows_and_rejects_or_one_clear_error(
    tmp_path: Path, feed: tuple[str, bytes, str], main_only: bool
) -> None:
    name, content, encoding = feed
    path = tmp_path / name
    path.write_bytes(content)
    place = SourcePlace(
        "source", str(path), SHOP, main_only=main_only, once=True, encoding=encoding
    )
    try:
        found = list(pictures(place, None))  # type: ignore[arg-type]  # a local file needs no store
    except CatalogError as error:
        refused = str(error)
        found = []
    else:
        refused = ""
    if refused:
        assert refused.startswith(f"{name}: ")
        assert not re.search(r"Error\b|Traceback|0x[0-9a-f]{8}", refused), refused
        return
    rows: dict[str, str] = {}
    for each in found:
        if isinstance(each, Reject):
            assert each.reason.startswith(f"{name}, line ")
            each.to_json().encode()
        elif isinstance(each, SourcePicture):
            assert rows.setdefault(each.row_id, each.uri) == each.uri
            assert each.uri.startswith(("s3://", str(tmp_path), "/"))
            assert each.where.startswith(f"{name}, line ")
        else:
            assert isinstance(each, Skipped)
    assert found
