"""Text in other encodings, read as UTF-8.

UTF-16 is recognised by its first two bytes, and XML declares its encoding. The bytes of a table do
not tell which legacy encoding it has, so whoever starts the run names it.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import IO

from ace_tasks.specs import quote

UTF16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"

ACCEPTED = "UTF-8, Shift_JIS, EUC-JP, GBK, GB18030, Big5, EUC-KR, windows-125x, ISO-8859-x, KOI8-R"

HEAD_BYTES = 400  # a text's beginning, which may tell its encoding
# UTF-16 XML begins with a byte order mark; without one, with `<` in either byte order.
_UTF16_STARTS = dict.fromkeys(UTF16, "utf-16") | {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
_CHUNK_BYTES = 2**16
# Names that Python does not know, in lower case with `-`.
_ALIASES = {
    "x-sjis": "cp932",
    "windows-31j": "cp932",  # as IANA calls it
    "cswindows31j": "cp932",
    "windows-932": "cp932",
    "x-euc-jp": "euc_jp",
    "x-gbk": "gbk",
    "windows-936": "gbk",
    "windows-949": "cp949",
    "x-windows-949": "cp949",
    "windows-950": "big5",
    "x-x-big5": "big5",
}
# Files declare the older name but contain characters of the newer one. Browsers do the same
# (https://encoding.spec.whatwg.org/#names-and-labels).
_NEWER = {
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "ascii": "utf-8",
}
# Encodings in which ASCII text keeps its bytes. Python also knows some in which it does not, such
# as UTF-7, and some codecs that do not encode text.
_KNOWN = re.compile(
    r"utf-8|cp932|shift_jis(x0213|_2004)|euc_jp|euc_jis(x0213|_2004)|iso2022_jp(_\w+)?|gb18030"
    r"|big5hkscs|cp949|johab|cp125\d|cp874|iso8859-\d+|koi8-[ru]|mac-(roman|cyrillic|greek|turkish)"
    r"|tis-620|cp(437|737|775|850|852|855|857|858|866)"
)
_DECLARED = re.compile(
    rb"<\?xml\s[^>]{0,200}?\bencoding\s*=\s*[\"']([A-Za-z][A-Za-z0-9._:-]{0,60})[\"']"
)


def codec_of(name: str) -> str:
    """Return Python's codec for an encoding as files and people name it.

    Raises ValueError for an encoding that is not accepted.
    """
    try:
        plain = name.strip().lower().replace("_", "-").replace(" ", "-")
        found = codecs.lookup(_ALIASES.get(plain, plain)).name
    except LookupError:
        found = ""
    except (ValueError, UnicodeError):  # a NUL, or a character outside ASCII
        found = ""
    found = _NEWER.get(found, found)
    if not _KNOWN.fullmatch(found):
        raise ValueError(f"accepted encodings: {ACCEPTED}; given {quote(name)}")
    return found


def declared(head: bytes) -> str | None:
    """Return the encoding that XML declares in its first bytes, or None."""
    found = _DECLARED.match(head)
    return found[1].decode("ascii") if found else None


def table_codec(head: bytes, encoding: str, *, catalog: bool = False) -> str:
    """Return Python's codec of a table by its first bytes, else by the `encoding` that is named.

    A `catalog` is never UTF-16. Raises ValueError for an encoding that is not accepted.
    """
    codec = codec_of(encoding or "UTF-8")
    if not catalog and head.startswith(UTF16):
        codec = "utf-16"
    return "utf-8" if head.startswith(BOM) else codec


def xml_codec(head: bytes, encoding: str) -> str:
    """Return Python's codec of XML by its first bytes, its declaration, or `encoding`.

    Raises ValueError for an encoding that is not accepted.
    """
    if head.startswith(BOM):
        return "utf-8"
    for start, codec in _UTF16_STARTS.items():
        if head.startswith(start):
            return codec
    return codec_of(declared(head) or encoding or "UTF-8")


def as_utf8(file: IO[bytes], codec: str, *, strict: bool) -> IO[bytes]:
    """Return a file that reads a text as UTF-8. Closing it closes `file`.

    Bytes that are invalid in the encoding raise UnicodeDecodeError. If not `strict`, they become a
    byte that is invalid in UTF-8, so that only the row that contains them is rejected.
    """
    errors = "strict" if strict else MARK
    return io.BufferedReader(_AsUtf8(file, codec, errors), _CHUNK_BYTES)


MARK = "ace_catalog.mark"


def _mark(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error(MARK, _mark)


class _AsUtf8(io.RawIOBase):
    def __init__(self, file: IO[bytes], codec: str, errors: str):
        self._file = file
        self._decoder = codecs.getincrementaldecoder(codec)(errors)
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            data = self._file.read(_CHUNK_BYTES)
            self._ended = not data
            text = self._decoder.decode(data, final=self._ended)
            self._ready = memoryview(text.encode("utf-8", "surrogateescape"))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
