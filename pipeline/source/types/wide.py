"""Parquet files with columns of integers wider than 64 bits, which Arrow refuses as a whole.

Such a column is stored as bytes, and only the Arrow schema in the file's footer calls it an
integer. So that schema is read here as it is, and patched in place: 128 bits of an integer become
16 bytes. Then all other columns can be read, and these are known by name.

The schema is a flatbuffer: a table begins with the distance to its list of slots, and a slot is the
distance from the table to a field.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

_KEY = b"ARROW:schema"
_FOOTER_END = 8
_INT, _FIXED_SIZE_BINARY = 2, 15
_NAME, _KIND, _TYPE, _CHILDREN = 0, 2, 3, 5
"""Slots of a field. Its type is an integer with the slots bits and sign, or bytes with a width."""


class WideColumns(NamedTuple):
    """The file with a patched footer, and the types of the columns that were patched."""

    stream: io.RawIOBase
    types: dict[str, str]
    """By the name of the column at the top: `128-bit integer`."""


def with_wide_columns_as_bytes(stream: Any) -> WideColumns | None:
    """The Parquet file with its wide integers as bytes; None where it has none or is not whole."""
    try:
        size = stream.seek(0, io.SEEK_END) or stream.tell()
        stream.seek(size - _FOOTER_END)
        length = int.from_bytes(stream.read(4), "little")
        start = size - _FOOTER_END - length
        stream.seek(start)
        footer = stream.read(length)
        at = footer.index(_KEY) + len(_KEY)
        encoded, at = _text(footer, at)
        schema = bytearray(base64.b64decode(encoded))
        types = dict(_patch(schema))
    except (ValueError, struct.error, IndexError, binascii.Error):
        return None
    if not types:
        return None
    return WideColumns(_Patched(stream, start + at, base64.b64encode(schema)), types)


def _text(footer: bytes, at: int) -> tuple[bytes, int]:
    """The value behind a key of the footer, and where it is: a type, a length, the bytes."""
    at, length, shift = at + 1, 0, 0
    while True:
        length |= (footer[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if footer[at - 1] < 0x80:
            return footer[at : at + length], at


def _patch(schema: bytearray) -> Iterator[tuple[str, str]]:
    """Turns wide integers into bytes; yields their columns and types."""
    message = 8 if schema[:4] == b"\xff\xff\xff\xff" else 4
    root = _follow(schema, message)
    for field in _vector(schema, _slot(schema, _follow(schema, _slot(schema, root, 2)), 1)):
        for kind in _patch_field(schema, field):
            yield _string(schema, _slot(schema, field, _NAME)), kind


def _patch_field(schema: bytearray, field: int) -> Iterator[str]:
    kind = _slot(schema, field, _KIND)
    if kind and schema[kind] == _INT:
        bits = _slot(schema, _follow(schema, _slot(schema, field, _TYPE)), 0)
        (width,) = struct.unpack_from("<i", schema, bits)
        if width > 64:
            schema[kind] = _FIXED_SIZE_BINARY
            struct.pack_into("<i", schema, bits, width // 8)
            yield f"{width}-bit integer"
    children = _slot(schema, field, _CHILDREN)
    for child in _vector(schema, children) if children else ():
        yield from _patch_field(schema, child)


def _slot(raw: bytearray, table: int, slot: int) -> int:
    """Where a field of the table is; 0: it has none."""
    slots = table - struct.unpack_from("<i", raw, table)[0]
    (size,) = struct.unpack_from("<H", raw, slots)
    at = 4 + 2 * slot
    distance = struct.unpack_from("<H", raw, slots + at)[0] if at < size else 0
    return table + int(distance) if distance else 0


def _follow(raw: bytearray, at: int) -> int:
    return at + int(struct.unpack_from("<I", raw, at)[0])


def _vector(raw: bytearray, at: int) -> Iterator[int]:
    start = _follow(raw, at)
    for number in range(struct.unpack_from("<I", raw, start)[0]):
        yield _follow(raw, start + 4 + 4 * number)


def _string(raw: bytearray, at: int) -> str:
    start = _follow(raw, at)
    (length,) = struct.unpack_from("<I", raw, start)
    return raw[start + 4 : start + 4 + length].decode()


class _Patched(io.RawIOBase):
    """A file in which some bytes read as others."""

    def __init__(self, stream: Any, start: int, patch: bytes) -> None:
        self._stream, self._start, self._patch = stream, start, patch

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._stream.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._stream.tell())

    def readinto(self, target: Any) -> int:
        at = self.tell()
        raw = bytearray(self._stream.read(len(target)))
        low, high = max(at, self._start), min(at + len(raw), self._start + len(self._patch))
        if low < high:
            raw[low - at : high - at] = self._patch[low - self._start : high - self._start]
        target[: len(raw)] = raw
        return len(raw)

    def close(self) -> None:
        self._stream.close()
        super().close()
