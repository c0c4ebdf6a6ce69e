"""Feeds as shops write them, made piece by piece: each with what it must be with new links.

A feed is a list of pieces, and each piece is a pair of bytes: as the shop wrote it, and as it must
be afterwards. So what is expected does not come from the code that is tested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from hypothesis import strategies as st

OLD = "https://c.test/files/"
# encoding as a file names it → (codec, what a file begins with, texts that it can write)
_WEST, _EAST = ("é", "Größe 5 µ", "a — b"), ("マグ", "表ソ能", "ー〜", "白　色")
ENCODINGS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "UTF-8": ("utf-8", b"", (*_WEST, *_EAST, "😀")),
    "utf-8 with a mark": ("utf-8", b"\xef\xbb\xbf", (*_WEST, *_EAST, "😀")),
    "UTF-16": ("utf-16-le", b"\xff\xfe", (*_WEST, *_EAST, "😀")),
    "UTF-16 of a Mac": ("utf-16-be", b"\xfe\xff", (*_WEST, *_EAST, "😀")),
    "Shift_JIS": ("cp932", b"", _EAST),
    "ISO-2022-JP": ("iso2022_jp", b"", ("マグ", "表ソ能", "白　色")),
    "EUC-JP": ("euc_jp", b"", ("マグ", "表ソ能")),
    "gbk": ("gb18030", b"", ("杯子", "大号 é")),
    "big5": ("big5hkscs", b"", ("杯子", "功許蓋")),
    "windows-1252": ("cp1252", b"", _WEST),
}
# Bytes that decode to a character which encodes to others.
DOUBLE = {"cp932": b"\xee\xf9\xfa\x54", "big5hkscs": b"\xa1\xc3"}


@dataclass
class Feed:
    """A feed in the making. The pictures whose numbers are in `kept` keep their links."""

    encoding: str
    ends: str = "\n"
    pieces: list[tuple[bytes, bytes]] = field(default_factory=list)
    named: dict[tuple[str, str], str | None] = field(default_factory=dict)  # new links, see `link`
    kept: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.codec, mark, self.texts = ENCODINGS[self.encoding]
        self.pieces.append((mark, mark))

    def add(self, text: str, new: str | None = None) -> None:
        """Add a text, and what it must be afterwards if that is another."""
        both = text, text if new is None else new
        old_bytes, new_bytes = (each.replace("\n", self.ends).encode(self.codec) for each in both)
        self.pieces.append((old_bytes, new_bytes))

    def add_double(self) -> None:
        data = DOUBLE.get(self.codec, b"")
        self.pieces.append((data, data))

    def link(self, product: str, number: int, scheme: str = "https:") -> tuple[str, str]:
        """Return a link of a product, and what it must be afterwards."""
        file = f"{number}.jpg" if number % 5 else f"a,{number}.jpg"
        old = f"{scheme}//c.test/files/{file}" + ("" if number % 3 else "?v=1&w=2")
        new = None if number in self.kept else _new_link(product, number)
        self.named[product, f"s3://shop/files/{file}"] = new
        return old, new or old

    @property
    def old(self) -> bytes:
        return b"".join(old for old, _ in self.pieces)

    @property
    def new(self) -> bytes:
        return b"".join(new for _, new in self.pieces)


def _new_link(product: str, number: int) -> str:
    digest = hashlib.sha256(f"{product}\0{number}".encode()).hexdigest()
    return f"https://new.test/{digest[:12]}.jpg?a=1&b=2"


_numbers = st.integers(0, 9)
_schemes = st.sampled_from(["https:", "https:", "http:", "HTTPS:", ""])


@st.composite
def begun(draw: st.DrawFn, ends: Sequence[str] = ("\n", "\r\n", "\r")) -> Feed:
    encoding = draw(st.sampled_from(list(ENCODINGS)))
    kept = draw(st.frozensets(st.integers(0, 9), max_size=5))
    return Feed(encoding, draw(st.sampled_from(ends)), kept=kept)


# ---------------------------------------------------------------- Google's XML


@st.composite
def google_xml(draw: st.DrawFn) -> Feed:
    """Return a feed in RSS or Atom, with links in every spelling of XML."""
    feed = draw(begun())
    declared = feed.encoding if not feed.pieces[0][0] else feed.encoding.partition(" ")[0]
    item = draw(st.sampled_from(["item", "entry"]))
    feed.add(f'<?xml version="1.0" encoding="{declared}"?>\n<!-- {OLD}1.jpg -->\n')
    feed.add(f"<!-- {_padding(draw, feed)} -->")
    feed.add('<rss xmlns:g="http://base.google.com/ns/1.0" xmlns:o="http://o.test"><channel>')
    for number in range(draw(st.integers(1, 4))):
        feed.add(draw(st.sampled_from(["", "\n", "\n  ", "<!-- <item> -->\n"])))
        feed.add(f"<{item}>")
        _fill_item(draw, feed, f"p{number}{draw(st.sampled_from(['', '-é&', ' 1']))}")
        feed.add(f"</{item}>")
    feed.add("</channel></rss>" + draw(st.sampled_from(["", "\n"])))
    return feed


def _fill_item(draw: st.DrawFn, feed: Feed, product: str) -> None:
    if feed.codec not in ("utf-8", "cp1252", "utf-16-le", "utf-16-be"):
        product = product.replace("é", "e")
    parts = ["id", "main", *draw(st.lists(st.sampled_from(["more", "more", "other"]), max_size=4))]
    for part in draw(st.permutations(parts)):
        feed.add(draw(st.sampled_from(["", "\n    ", "<!-- A & b -->"])))
        if part == "id":
            feed.add(f"<g:id>{escape(product)}</g:id>")
        elif part == "other":
            _add_other(draw, feed)
        else:
            name = "image_link" if part == "main" else "additional_image_link"
            feed.add(f"<g:{name}>")
            count = 1 if part == "main" else draw(st.integers(0, 3))
            for n in range(count):
                feed.add(draw(st.sampled_from([",", ", ", "\n,"])) if n else "")
                _add_link(draw, feed, product)
            feed.add(f"</g:{name} >")


def _add_other(draw: st.DrawFn, feed: Feed) -> None:
    text = draw(st.sampled_from(feed.texts))
    feed.add(
        draw(
            st.sampled_from(
                [
                    f"<title>{text} &amp; &#169; {OLD}2.jpg</title>",
                    f"<g:shipping><g:image_link>{OLD}1.jpg</g:image_link></g:shipping>",
                    f"<link>{OLD}1.jpg</link>",
                    f"<description><![CDATA[<b>{text}</b> {OLD}1.jpg &amp; ]]]></description>",
                    f"<o:x a='{OLD}1.jpg' b=\"{text}\"/>",
                    "<?pi https://c.test?>",
                ]
            )
        )
    )
    if draw(st.booleans()):
        feed.add("<g:brand>")
        feed.add_double()
        feed.add("</g:brand>")


def _add_link(draw: st.DrawFn, feed: Feed, product: str) -> None:
    old, new = feed.link(product, draw(_numbers), draw(_schemes))
    at = draw(st.integers(1, len(old) - 1))
    changed = old != new
    how = draw(st.sampled_from(["plain", "cdata", "comment", "numbered", "half", "spaced"]))
    if how == "plain":
        feed.add(escape(old), escape(new))
    elif how == "cdata":
        feed.add(f"<![CDATA[{old}]]>", f"<![CDATA[{new}]]>")
    elif how == "comment":
        feed.add(
            f"{escape(old[:at])}<!-- & -->{escape(old[at:])}",
            f"{escape(new)}<!-- & -->" if changed else None,
        )
    elif how == "numbered":
        feed.add(f"{escape(old[:at])}&#x{ord(old[at]):x};{escape(old[at + 1 :])}",
                 escape(new) if changed else None)  # fmt: skip
    elif how == "half":
        feed.add(
            f"{escape(old[:at])}<![CDATA[{old[at:]}]]>",
            f"{escape(new)}<![CDATA[]]>" if changed else None,
        )
    else:
        feed.add("\n  ")
        feed.add(escape(old), escape(new))
        feed.add("  \n")


# ---------------------------------------------------------------- tables

_GOOGLE = ["id", "title", "image_link", "additional_image_link", "link"]
_OLDER = ["Handle", "Title", "Body (HTML)", "Image Src", "Image Position", "Variant Image"]
_NEWER = [
    "Title",
    "URL handle",
    "Description",
    "Product image URL",
    "Image position",
    "Variant image URL",
]


@st.composite
def google_table(draw: st.DrawFn, delimiter: str) -> Feed:
    """Return a feed of Google's as CSV or TSV."""
    feed = draw(begun())
    columns = draw(st.permutations(_GOOGLE))
    named = draw(st.sampled_from(["{}", "g:{}", "{} "]))
    _add_row(draw, feed, delimiter, [(named.format(each), None) for each in columns])
    for number in range(draw(st.integers(1, 5))):
        product = f"p{number}"
        cells = {
            "id": (product, None),
            "title": (
                (_padding(draw, feed) if not number else "") + _title(draw, feed, delimiter),
                None,
            ),
            "image_link": feed.link(product, draw(_numbers), draw(_schemes)),
            "additional_image_link": _listed(draw, feed, product),
            "link": (draw(st.sampled_from(["", f"{OLD}1.jpg"])), None),
        }
        _add_row(draw, feed, delimiter, [cells[each] for each in columns])
    return feed


@st.composite
def shopify(draw: st.DrawFn) -> Feed:
    """Return Shopify's export, with the columns of either generation."""
    feed = draw(begun())
    older = draw(st.booleans())
    names = _OLDER if older else _NEWER
    columns = draw(st.permutations(names))
    _add_row(draw, feed, ",", [(each, None) for each in columns])
    title, handle = (names[1], names[0]) if older else (names[0], names[1])
    for number in range(draw(st.integers(1, 6))):
        product = draw(st.sampled_from(["mug", "bag", "tee"]))
        has_image, has_variant = draw(st.sampled_from([(1, 0), (1, 1), (0, 1), (0, 0), (1, 0)]))
        cells = {
            handle: (product, None),
            title: (_title(draw, feed, ","), None),
            names[2]: (draw(st.sampled_from(["", "<p>Mug</p>", "a, b"])), None),
            names[3]: feed.link(product, draw(_numbers), draw(_schemes))
            if has_image
            else ("", None),
            names[4]: (str(number) if has_image else "", None),
            names[5]: feed.link(product, draw(_numbers), draw(_schemes))
            if has_variant
            else ("", None),
        }
        _add_row(draw, feed, ",", [cells[each] for each in columns])
    return feed


def _padding(draw: st.DrawFn, feed: Feed) -> str:
    """Return nothing, or as much that a link may lie across the end of a chunk that is read."""
    if draw(st.integers(0, 4)):
        return ""
    chunk = 2**15 if feed.codec.startswith("utf-16") else 2**16
    return "x" * (chunk - draw(st.integers(200, 700)))


def _title(draw: st.DrawFn, feed: Feed, delimiter: str) -> str:
    text = draw(st.sampled_from(feed.texts))
    more = ['A "mug"', "", 'of 12"', "a, b"] + (["line\nand line", '"'] if delimiter == "," else [])
    return text + draw(st.sampled_from(more))


def _listed(draw: st.DrawFn, feed: Feed, product: str) -> tuple[str, str | None]:
    # A comma within a link and another link after it look like a row that a quote swallowed.
    numbers = draw(st.lists(_numbers.filter(lambda n: n % 5), max_size=3))
    each = [feed.link(product, n) for n in numbers]
    between = draw(st.sampled_from([",", ", ", " "]))
    return between.join(old for old, _ in each), between.join(new for _, new in each)


def _add_row(
    draw: st.DrawFn, feed: Feed, delimiter: str, cells: list[tuple[str, str | None]]
) -> None:
    for number, (old, new) in enumerate(cells):
        feed.add(delimiter if number else "")
        special = any(each in old for each in (delimiter, "\n")) or old.startswith('"')
        quoted = special or draw(st.booleans())
        feed.add('"' if quoted else "")
        feed.add(old.replace('"', '""') if quoted else old, new)
        if any(each in old for each in feed.texts):
            feed.add_double()
        feed.add('"' if quoted else "")
    feed.add("\n")
