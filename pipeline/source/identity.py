"""Hashes that identify rows and chunks.

A row must have the same identity in JSONL and in Parquet, today and next year. So the hash covers
logical type and value in a length-prefixed encoding of our own, never the bytes of a file format.
Two rules follow from Arrow's limits: a float with a whole value is the integer (a JSONL column of
1, 2, 2.5 becomes 1.0, 2.0, 2.5 in Parquet), and an absent key is a null key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple


def digest_of(parts: Iterable[str | int]) -> str:
    """SHA-256 over a length-prefixed encoding of the parts. Shape: 64 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        raw = str(part).encode("utf-8", "surrogateescape")
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()


_PIECE_CHARS = 1 << 20


class Moment(NamedTuple):
    """A temporal value in nanoseconds, as Arrow holds it; Python's types are too coarse for it."""

    kind: str
    nanoseconds: int


def encode(value: Any) -> bytes:
    """Type tag, length of the content in 8 bytes, content.

    Invariant: two values have the same encoding only if logical type and value are equal.
    """
    tag, content = _ENCODERS.get(type(value), _encode_other)(value)
    return tag + len(content).to_bytes(8, "big") + content


def of_id(value: Any) -> bytes:
    """The identity of the row with this id. Shape: 16 bytes."""
    return sha256(b"textmill:id:" + encode(value)).digest()[:16]


def encode_pieces(value: Any) -> Iterator[bytes]:
    """`encode(value)` in pieces, so that a text of 200 MB, also as a column, is never copied
    whole."""
    if type(value) is str and len(value) > _PIECE_CHARS:
        yield b"s" + sum(map(len, _utf8(value))).to_bytes(8, "big")
        yield from _utf8(value)
    elif type(value) is dict and any(
        type(field) is str and len(field) > _PIECE_CHARS for field in value.values()
    ):
        keys = [key for key in sorted(value) if value[key] is not None]
        sizes = (len(encode(key)) + sum(map(len, encode_pieces(value[key]))) for key in keys)
        yield b"o" + sum(sizes).to_bytes(8, "big")
        for key in keys:
            yield encode(key)
            yield from encode_pieces(value[key])
    else:
        yield encode(value)


def of_content(row: Mapping[str, Any]) -> bytes:
    """The hash that equal rows share; `of_occurrence` derives identities from it. Shape: 16
    bytes."""
    hashed = sha256(b"textmill:row:")
    for piece in encode_pieces(dict(row)):
        hashed.update(piece)
    return hashed.digest()[:16]


def _utf8(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS].encode("utf-8", "surrogatepass")


def of_bytes(digest: bytes) -> bytes:
    """The same for a row that cannot be read; `digest` is the SHA-256 of its raw bytes."""
    return sha256(b"textmill:raw:" + encode(digest)).digest()[:16]


def of_occurrence(content: bytes, occurrence: int) -> bytes:
    """The identity of the n-th row with this content, counted from 0. Shape: 16 bytes."""
    return sha256(b"textmill:nth:" + content + occurrence.to_bytes(8, "big")).digest()[:16]


def chunk_id(identity: bytes, text: bytes, occurrence: int) -> str:
    """The id of the n-th chunk with this UTF-8 text in its document. Shape: 32 hex digits."""
    name = b"textmill:chunk:" + encode(identity) + encode(text) + occurrence.to_bytes(8, "big")
    return sha256(name).hexdigest()[:32]


def _encode_other(value: Any) -> tuple[bytes, bytes]:
    return b"x", encode(type(value).__name__) + encode(str(value))


def _encode_float(value: float) -> tuple[bytes, bytes]:
    if value.is_integer() and (value or math.copysign(1, value) > 0):
        return b"i", b"%d" % int(value)
    return b"f", b"nan" if value != value else struct.pack(">d", value)


def _encode_decimal(value: Decimal) -> tuple[bytes, bytes]:
    sign, digits, exponent = value.as_tuple()
    significant = "".join(map(str, digits)).lstrip("0")
    short = significant.rstrip("0")
    if not short or not isinstance(exponent, int):
        return b"d", b"0" if not short else str(value).encode()
    return b"d", f"{'-' * sign}{short}e{exponent + len(significant) - len(short)}".encode()


def _encode_datetime(value: dt.datetime) -> tuple[bytes, bytes]:
    if value.tzinfo is not None:
        return b"Z", value.astimezone(dt.UTC).isoformat().encode()
    return b"t", value.isoformat().encode()


def _encode_list(value: list[Any] | tuple[Any, ...]) -> tuple[bytes, bytes]:
    return b"l", b"".join(map(encode, value))


def _encode_object(value: dict[str, Any]) -> tuple[bytes, bytes]:
    return b"o", b"".join(
        encode(key) + encode(value[key]) for key in sorted(value) if value[key] is not None
    )


_ENCODERS: dict[type, Callable[[Any], tuple[bytes, bytes]]] = {
    type(None): lambda value: (b"n", b""),
    str: lambda value: (b"s", value.encode("utf-8", "surrogatepass")),
    int: lambda value: (b"i", b"%d" % value),
    float: _encode_float,
    bool: lambda value: (b"b", b"1" if value else b"0"),
    bytes: lambda value: (b"y", value),
    Decimal: _encode_decimal,
    dt.datetime: _encode_datetime,
    dt.date: lambda value: (b"D", value.isoformat().encode()),
    dt.time: lambda value: (b"T", value.isoformat().encode()),
    dt.timedelta: lambda value: (b"P", b"%d" % (value // dt.timedelta(microseconds=1))),
    Moment: lambda value: (b"m", encode(value.kind) + encode(value.nanoseconds)),
    list: _encode_list,
    tuple: _encode_list,
    dict: _encode_object,
}
