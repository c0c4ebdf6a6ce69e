"""The sizes that a Parquet file's pages unpack to, read from their headers before unpacking.

The footer holds sums, which may be wrong, while the library relies on the header of each page. A
page of a few hundred bytes may unpack to gigabytes, so the largest pages decide how much memory a
file needs.

A header is a struct in Thrift's compact protocol: https://github.com/apache/parquet-format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any

import pyarrow.parquet

_HEADER_BYTES = 4096
_MAX_HEADER_BYTES = 2**22  # a header contains the smallest and the largest value of its page
_MAX_DEPTH = 16
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_V2 = 2, 3, 5, 7, 8  # fields of PageHeader
_ENCODING, _ENCODING_V2 = 2, 4  # fields of the headers of data pages
_DELTA_BYTE_ARRAY = 7  # a text stored as its difference from the previous one
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one column in one row group."""

    column: str
    repeated: bool  # a list, or part of one
    largest_bytes: int
    all_bytes: int
    values: int
    fewest_values: int  # of all pages but the last. This many rows touch at most two pages
    # The largest size of one value in memory, if values may share bytes of a page. 0 if values take
    # no more than in their page, or stay in a dictionary.
    value_bytes: int
    shares_beginnings: bool


def read_pages(file: IO[bytes], metadata: pyarrow.parquet.FileMetaData, group: int) -> list[Pages]:
    """Return the pages of each column of a row group.

    Raises ValueError if a page has no valid header.
    """
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
    """Return (bytes unpacked, values, encoding) of each page. A dictionary has no values."""
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
        except IndexError:  # the header is longer than what was read
            if len(data) < size or size >= _MAX_HEADER_BYTES:
                raise ValueError("a page header without an end") from None
            size = _MAX_HEADER_BYTES


class _Thrift:
    """A reader of Thrift's integers and structs that skips other values.

    Raises IndexError at the end of the data.
    """

    def __init__(self, data: bytes):
        self._data, self.position = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("a page header is nested too deeply")
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
        raise ValueError("not a page header")  # page headers contain no lists or maps

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
