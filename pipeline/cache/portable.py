"""Answers in one file, to carry to another machine or to keep away from this one.

    textmill answers 1\n
    head   entries, packed bytes, unpacked bytes, CRC-32 of the packed bytes, CRC-32 of this head
    body   packed with zstd: MessagePack of [[key, stored, sealed], ...]
    ...
    head   of no entries; its body is the count of all entries, 8 bytes

Numbers are little-endian, 4 bytes. A head is checked before a length in it is believed, so that a
damaged body costs its own entries and no others, and a hostile length no memory. Values are data:
nothing in the file is ever run, and each one must fit its own checksum under its key.
"""

from __future__ import annotations

import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct

from pipeline.cache.entry import PREFIX, Entry
from pipeline.cache.keys import parts_of
from pipeline.cache.store import AnswerCache
from pipeline.errors import InputError
from pipeline.records import Answer, Split
from pipeline.text import many, reason, shown

MAGIC = b"textmill answers "
VERSION = b"1"
BLOCK_BYTES = 256 << 10
LARGEST_BLOCK_BYTES = 64 << 20
"""An answer is never larger: a reply is refused above some MB for each of its requests."""

_HEAD = struct.Struct("<IIII")
_CRC = struct.Struct("<I")
_zstd = pa.Codec("zstd", compression_level=1)
_Body = list[tuple[bytes, float, bytes]]
_decode = msgspec.msgpack.Decoder(_Body).decode


class Exported(Struct, frozen=True):
    """What an export holds, and how many damaged entries were left out."""

    answers: int
    bytes: int
    damaged: int


class Imported(Struct, frozen=True):
    """What an import did. `other`: another answer stands here under this key, and stays."""

    answers: int = 0
    added: int = 0
    other: int = 0
    damaged: int = 0


def export(cache: AnswerCache, file: BinaryIO) -> Exported:
    """Write every good answer. Cost: memory for some hundred answers."""
    file.write(MAGIC + VERSION + b"\n")
    answers = size = damaged = entries = pending = 0
    body: _Body = []
    for found in cache.entries():
        for entry in found:
            is_prefix = entry.key.startswith(PREFIX) and bool(parts_of(entry.encoded or b""))
            if not is_prefix and not entry.is_answer:
                continue
            if entry.encoded is None or not (is_prefix or entry.answer):
                damaged += 1
                continue
            if pending and pending + len(entry.encoded) > BLOCK_BYTES:
                size += _write_block(file, body)
                body, pending = [], 0
            body.append((entry.key, entry.stored, entry.encoded))
            pending += len(entry.encoded)
            answers += entry.is_answer
            entries += 1
    if body:
        size += _write_block(file, body)
    total = struct.pack("<Q", entries)
    file.write(_block_head(0, total, 0) + total)
    return Exported(answers, size, damaged)


def _write_block(file: BinaryIO, body: _Body) -> int:
    plain = msgspec.msgpack.encode(body)
    packed = _zstd.compress(plain, asbytes=True)
    file.write(_block_head(len(body), packed, len(plain)) + packed)
    return len(packed)


def _block_head(entries: int, packed: bytes, plain_bytes: int) -> bytes:
    head = _HEAD.pack(entries, len(packed), plain_bytes, zlib.crc32(packed))
    return head + _CRC.pack(zlib.crc32(head))


def check(path: Path) -> None:
    """Read the whole file once, so that nothing is taken of one that is cut or not ours.

    Raises: InputError. Cost: memory for one block.
    """
    for _ in _read_blocks(path):
        pass


def import_answers(cache: AnswerCache, path: Path, tell: Callable[[str], None]) -> Imported:
    """Add the answers of the file that are not here yet; what is damaged in it is told."""
    answers = added = other = damaged = 0
    for entries, place, body in _read_blocks(path):
        found = _decode_body(body) if body is not None else None
        if found is None or len(found) != entries:
            tell(f"{place}: a damaged block of {many(entries, 'entry', 'entries')}")
            damaged += entries
            continue
        good: list[Entry] = []
        for key, stored, encoded in found:
            entry = Entry(0, key, _valid_time(stored), encoded)
            if entry.key.startswith(PREFIX) and parts_of(encoded):
                cache.remember_prefix(encoded)
            elif entry.is_answer and is_sound(entry):
                good.append(entry)
            else:
                tell(f"{place}: entry {entry.key[:6].hex()} is damaged")
                damaged += 1
        new, differ = cache.add_many(good)
        answers, added, other = answers + len(good), added + new, other + differ
    return Imported(answers, added, other, damaged)


def is_sound(entry: Entry) -> bool:
    """It fits its checksum, and its value is one that an endpoint may give."""
    answer = entry.answer
    if answer is None or isinstance(answer, Split):
        return answer is not None
    counts = (answer.input_tokens, answer.output_tokens)
    return _is_value(answer) and all(0 <= count < 1 << 53 for count in counts)


def _is_value(answer: Answer) -> bool:
    if isinstance(answer.value, str):
        return bool(answer.value.strip())
    if not answer.value or len(answer.value) % 4:
        return False
    vector = np.frombuffer(answer.value, "<f4")
    return bool(np.isfinite(vector).all() and vector.any())


def _valid_time(stored: float) -> float:
    """A time that has not come yet would keep an answer from ever growing old."""
    now = time.time()
    return stored if math.isfinite(stored) and 0 <= stored <= now else now


def _read_blocks(path: Path) -> Iterator[tuple[int, str, bytes | None]]:
    """Entries, place and packed body of each block, None where it does not fit its checksum."""
    name = shown(str(path))
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size
            first = file.read(len(MAGIC) + len(VERSION) + 1)
            left -= len(first)
            if not first.startswith(MAGIC):
                raise InputError(f"{name}: not a file of `textmill cache export`")
            if first[len(MAGIC) :] != VERSION + b"\n":
                raise InputError(f"{name}: another version than {VERSION.decode()} of this format")
            total = 0
            while True:
                place = f"{name}: byte {file.tell():,}"
                after = many(total, "entry", "entries")
                head = file.read(_HEAD.size + _CRC.size)
                if len(head) < _HEAD.size + _CRC.size:
                    raise InputError(f"{name}: cut after {after}, nothing was taken")
                entries, packed_bytes, plain_bytes, crc = _HEAD.unpack_from(head)
                if zlib.crc32(head[: _HEAD.size]) != _CRC.unpack_from(head, _HEAD.size)[0]:
                    raise InputError(f"{place}: a damaged head, nothing was taken")
                left -= len(head) + packed_bytes
                if left < 0:
                    raise InputError(f"{name}: cut after {after}, nothing was taken")
                if max(packed_bytes, plain_bytes) > LARGEST_BLOCK_BYTES:
                    raise InputError(f"{place}: a block of {plain_bytes:,} bytes, over the most")
                packed = file.read(packed_bytes)
                is_whole = zlib.crc32(packed) == crc and len(packed) == packed_bytes
                if entries == 0:
                    if not is_whole or packed != struct.pack("<Q", total) or left:
                        raise InputError(f"{place}: the end does not fit, nothing was taken")
                    return
                total += entries
                yield entries, place, _decompress(packed, plain_bytes) if is_whole else None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({reason(error)})") from None


def _decompress(packed: bytes, plain_bytes: int) -> bytes | None:
    try:
        plain: bytes = _zstd.decompress(packed, plain_bytes, asbytes=True)
    except (pa.ArrowException, OSError, MemoryError):
        return None
    return plain if len(plain) == plain_bytes else None


def _decode_body(body: bytes) -> _Body | None:
    try:
        return _decode(body)
    except (msgspec.MsgspecError, RecursionError, MemoryError):
        return None
