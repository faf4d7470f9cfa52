"""How much a Parquet file unpacks to, from its page headers.

A file's own metadata may understate it; the reader allocates what the header of each page says. So the headers are
walked before anything is read. They are Thrift structs in the compact protocol (parquet-format, PageHeader).
"""

from __future__ import annotations

from typing import Any

from asabench.submission.findings import Refused

_STOP = 0
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_UNPACKED_FIELD, _PACKED_FIELD = 2, 3
_MOST_DEPTH = 8


def unpacked_bytes(metadata: Any, content: bytes) -> tuple[int, int]:
    """The bytes that all pages of a file unpack to by their headers, and the bytes that its column chunks take.

    metadata: pyarrow's `FileMetaData`. Raises `Refused` for pages that lie outside the file or do not add up.
    """
    unpacked = packed = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                starts.append(chunk.dictionary_page_offset)
            start, size = min(starts), chunk.total_compressed_size
            if start < 4 or size < 0 or start + size > len(content):
                raise Refused("the file", "a column that lies outside it", "whole columns")
            unpacked += _chunk_bytes(content[start : start + size])
            packed += size
    return unpacked, packed


def _chunk_bytes(chunk: bytes) -> int:
    place = total = 0
    while place < len(chunk):
        try:
            sizes, place = _page_header(chunk, place)
            unpacked, packed = sizes[_UNPACKED_FIELD], sizes[_PACKED_FIELD]
        except (IndexError, KeyError):
            raise Refused("the file", "a page whose header cannot be read", "whole pages") from None
        if unpacked < 0 or packed < 0 or place + packed > len(chunk):
            raise Refused("the file", "a page that is longer than its column", "whole pages")
        total += unpacked
        place += packed
    return total


def _page_header(data: bytes, place: int) -> tuple[dict[int, int], int]:
    """The whole numbers of the header's own fields by number, and where the header ends."""
    numbers: dict[int, int] = {}
    field = 0
    while True:
        head = data[place]
        place += 1
        if head == _STOP:
            return numbers, place
        kind = head & 0x0F
        if head >> 4:
            field += head >> 4
        else:
            field, place = _number(data, place)
        if kind in (_I16, _I32, _I64):
            numbers[field], place = _number(data, place)
        else:
            place = _after(data, place, kind, 0)


def _after(data: bytes, place: int, kind: int, depth: int) -> int:
    """Where a value of that kind ends."""
    if depth > _MOST_DEPTH:
        raise IndexError
    if kind in (_TRUE, _FALSE):
        return place
    if kind == _BYTE:
        return place + 1
    if kind in (_I16, _I32, _I64):
        return _number(data, place)[1]
    if kind == _DOUBLE:
        return place + 8
    if kind == _BINARY:
        length, place = _varint(data, place)
        return place + length
    if kind in (_LIST, _SET):
        head, place = data[place], place + 1
        count, element = head >> 4, head & 0x0F
        if count == 15:
            count, place = _varint(data, place)
        for _ in range(min(count, len(data))):
            place = _after(data, place + (element in (_TRUE, _FALSE)), element, depth + 1)
        return place
    if kind == _STRUCT:
        while data[place] != _STOP:
            inner, long_form = data[place] & 0x0F, data[place] >> 4 == 0
            place += 1
            if long_form:
                place = _number(data, place)[1]
            place = _after(data, place, inner, depth + 1)
        return place + 1
    raise IndexError  # maps, and kinds that are none: no page header has them


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A zigzag-encoded whole number, and where it ends."""
    value, place = _varint(data, place)
    return (value >> 1) ^ -(value & 1), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, place
        shift += 7
    raise IndexError
