"""What the pages of a Parquet file unpack to, by their headers and before any is unpacked.

The footer tells sums, which may be wrong; a page's own header is what the library goes by. A page
of some hundred bytes may unpack to gigabytes, so the largest ones say how much memory a file takes.

A header is a struct in Thrift's compact protocol: https://github.com/apache/parquet-format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

import pyarrow.parquet

_HEADER_BYTES = 4096
_MAX_HEADER_BYTES = 2**22  # a header holds the smallest and the largest value of its page
_MAX_DEPTH = 16
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_V2 = 2, 3, 5, 7, 8  # fields of PageHeader
_ENCODING, _ENCODING_V2 = 2, 4  # fields of the headers of data pages
_DELTA_BYTE_ARRAY = 7  # a text as what it adds to the beginning of the one before
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one column in one row group."""

    column: str
    repeated: bool  # a list, or within one
    largest_bytes: int
    all_bytes: int
    values: int
    fewest_values: int  # in a page, the last one left out: so many rows touch two pages
    # Many values may share bytes of a page. So many bytes each may then take once it is read; 0: no
    # more than it takes in its page, or it stays in a dictionary.
    value_bytes: int
    shares_beginnings: bool


def read_pages(file: IO[bytes], metadata: pyarrow.parquet.FileMetaData, group: int) -> list[Pages]:
    """Raises ValueError where there is no page header."""
    found = []
    for number in range(metadata.num_columns):
        column = metadata.schema.column(number)
        chunk = metadata.row_group(group).column(number)
        headers = list(_headers(file, chunk))
        values = [count for _, count, _ in headers if count is not None]
        largest_bytes = max((size for size, _, _ in headers), default=0)
        shares_beginnings = any(encoding == _DELTA_BYTE_ARRAY for _, _, encoding in headers)
        value_bytes = largest_bytes if shares_beginnings else 0
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            value_bytes = column.length
        found.append(
            Pages(
                column=column.path,
                repeated=column.max_repetition_level > 0,
                largest_bytes=largest_bytes,
                all_bytes=sum(size for size, _, _ in headers),
                values=sum(values),
                fewest_values=min(values[:-1], default=2**31),
                value_bytes=value_bytes,
                shares_beginnings=shares_beginnings,
            )
        )
    return found


def _headers(file: IO[bytes], chunk: Any) -> list[tuple[int, int | None, int | None]]:
    """(bytes unpacked, values, encoding) of each page; a dictionary has no values."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    found = []
    while start < end:
        header, length = _read_header(file, start)
        packed, unpacked = header.get(_PACKED), header.get(_UNPACKED)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0:
            raise ValueError("a page without its size")
        values = encoding = None
        for kind, field in ((_DATA, _ENCODING), (_DATA_V2, _ENCODING_V2)):
            data = header.get(kind)
            if isinstance(data, dict):
                values, encoding = data.get(1, 0), data.get(field)
        found.append((unpacked, values, encoding))
        start += length + packed
    return found


def _read_header(file: IO[bytes], offset: int) -> tuple[dict[int, Any], int]:
    size = _HEADER_BYTES
    while True:
        file.seek(offset)
        data = file.read(size)
        try:
            thrift = _Thrift(data)
            return thrift.struct(0), thrift.position
        except IndexError:  # it goes on behind what was read
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise ValueError("a page header without an end") from None
            size = _MAX_HEADER_BYTES


class _Thrift:
    """Reads whole numbers and structs; passes over the rest. Raises IndexError at the end."""

    def __init__(self, data: bytes):
        self._data, self.position = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("a page header too deep")
        fields: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed()
            fields[field] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in {_TRUE, _FALSE}:
            return kind == _TRUE
        if kind in {_I16, _I32, _I64}:
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _BINARY:
            return self._skip(self._unsigned())
        if kind == _BYTE:
            return self._skip(1)
        if kind == _DOUBLE:
            return self._skip(8)
        raise ValueError("no page header")  # lists and maps are in none

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self._data):
            raise IndexError

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 63:
                return value

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
