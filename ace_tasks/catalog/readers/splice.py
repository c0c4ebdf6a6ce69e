"""Copy a text file with some parts replaced, and every other byte as it is.

A file is read as UTF-8, whatever its encoding is, so parts are named by their place in that UTF-8.
Encoding does not always undo decoding: two byte sequences may mean one character. So the file is
decoded once more, to find the bytes of each part, and all other bytes are copied.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from ace_tasks.catalog.readers.encodings import MARK, UTF16
from ace_tasks.errors import BrokenRun, SettingsError

_CHUNK_BYTES = 2**16
_ESC = 0x1B  # begins a shift between the alphabets of ISO-2022


@dataclass(frozen=True, slots=True)
class Change:
    """An ASCII text in place of the bytes `start` to `end` of a file's UTF-8."""

    start: int
    end: int
    text: str


def splice(source: IO[bytes], codec: str, changes: Iterable[Change], out: IO[bytes]) -> None:
    """Copy a file with changes, which come in the order of their places and do not overlap.

    `codec` is Python's name of its encoding. Raises SettingsError for a text that the encoding
    cannot write, and BrokenRun for a change that is not between two characters of the file.
    """
    text = _Utf8(source) if codec == "utf-8" else _Encoded(source, codec)
    for change in changes:
        text.pass_over(change.start, out, copied=True)
        out.write(text.encode(change.text))
        text.pass_over(change.end, out, copied=False)
    text.pass_over(None, out, copied=True)


class _Utf8:
    def __init__(self, source: IO[bytes]):
        self._source, self._at = source, 0

    def encode(self, text: str) -> bytes:
        return text.encode("ascii")

    def pass_over(self, end: int | None, out: IO[bytes], *, copied: bool) -> None:
        """Read up to a place, or to the end of the file. Write the bytes if they are `copied`."""
        while end is None or self._at < end:
            wanted = _CHUNK_BYTES if end is None else min(end - self._at, _CHUNK_BYTES)
            data = self._source.read(wanted)
            if not data:
                break
            self._at += len(data)
            if copied:
                out.write(data)
        _check(self._at, end)


class _Encoded:
    """A text in another encoding, with the methods of `_Utf8`.

    A part is either a run of characters with the same bytes as in UTF-8, or one decoding step.
    """

    def __init__(self, source: IO[bytes], codec: str):
        self._source, self._codec, self._at = source, codec, 0
        self._is_utf16 = codec.startswith("utf-16")
        same = b"" if self._is_utf16 else _same_in(codec)
        self._run = re.compile(b"[" + re.escape(same) + b"]+") if same else None
        self._parts = self._decoded()
        self._left = (b"", 0)  # the rest of a part: its bytes, and their size in UTF-8

    def encode(self, text: str) -> bytes:
        """Return an ASCII text in this encoding. Raises SettingsError if it has no such letter."""
        data = text.encode(self._codec, "replace")
        if data.decode(self._codec) != text or (self._run and not data.isascii()):
            raise SettingsError(f"public_base_url: accepted: letters that {self._codec} can write")
        return data

    def pass_over(self, end: int | None, out: IO[bytes], *, copied: bool) -> None:
        while end is None or self._at < end:
            data, size = self._left
            if not size:
                part = next(self._parts, None)
                if part is None:
                    break
                shift, data, size = part
                out.write(shift)
            wanted = size if end is None else min(size, end - self._at)
            if len(data) == size:  # it may be cut anywhere
                self._left = data[wanted:], size - wanted
                data, size = data[:wanted], wanted
            else:
                self._left = b"", 0
            self._at += size
            if copied:
                out.write(data)
        _check(self._at, end)

    def _decoded(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield each part: bytes before it that mean no character, its bytes, its size in UTF-8."""
        data, begun = self._source.read(_CHUNK_BYTES), b""
        if self._codec == "utf-16":
            begun, data = data[: len(UTF16[0])], data[len(UTF16[0]) :]
            self._codec = "utf-16-le" if begun == UTF16[0] else "utf-16-be"
        decoder = codecs.getincrementaldecoder(self._codec)(MARK)
        at_rest, unit = decoder.getstate(), 2 if self._is_utf16 else 1
        while data:
            at = 0
            while at < len(data):
                run = self._run.match(data, at) if self._run and not begun else None
                if run and decoder.getstate() == at_rest:
                    yield b"", run[0], len(run[0])
                    at = run.end()
                    continue
                begun += data[at : at + unit]
                text = decoder.decode(data[at : at + unit])
                at += unit
                if text:
                    yield _part(begun, text, unit)
                    begun = b""
            data = self._source.read(_CHUNK_BYTES)
        if text := decoder.decode(b"", True):
            yield _part(begun, text, unit)
        elif begun:
            yield begun, b"", 0


def _part(data: bytes, text: str, unit: int) -> tuple[bytes, bytes, int]:
    size = len(text.encode(errors="surrogateescape"))
    if size > 1 or text[0] == "\udcff":
        return b"", data, size
    return data[:-unit], data[-unit:], size


def _same_in(codec: str) -> bytes:
    """Return the ASCII characters whose bytes mean them in an encoding."""
    each = (number for number in range(128) if number != _ESC)
    return bytes(n for n in each if bytes([n]).decode(codec, "replace") == chr(n))


def _check(at: int, end: int | None) -> None:
    if end is not None and at != end:
        raise BrokenRun(f"a change at byte {end} is not between two characters of the file")
