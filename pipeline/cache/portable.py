"""Export and import of answers as one file, for another machine or as a backup.

    textmill answers 2\n
    head   entries, packed bytes, unpacked bytes, CRC-32 of the packed bytes, CRC-32 of this head
    body   packed with zstd: MessagePack of [[key, stored, encoded], ...]
    ...
    head   of 0 entries; its body is the count of all entries, 8 bytes

Numbers are little-endian, 4 bytes. A head is verified before its lengths are used, so that a
damaged body costs only its own entries, and a hostile length no memory. Values are data: nothing
in the file is ever executed, and each value must match its checksum under its key.
"""

from __future__ import annotations

import errno
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

from pipeline.cache.entry import EXPORTED_NAMES, Entry
from pipeline.cache.origins import is_readable
from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import system_error
from pipeline.errors import InputError
from pipeline.records import Answer, Split
from pipeline.text import many, reason, shown

MAGIC = b"textmill answers "
VERSION = b"2"
BLOCK_BYTES = 256 << 10
LARGEST_BLOCK_BYTES = 64 << 20
"""An answer is never larger: a reply is rejected above a few MB for each of its requests."""

_HEAD = struct.Struct("<IIII")
_CRC = struct.Struct("<I")
_zstd = pa.Codec("zstd", compression_level=1)
_Body = list[tuple[bytes, float, bytes]]
_decode = msgspec.msgpack.Decoder(_Body).decode


class Exported(Struct, frozen=True):
    """The counts of an export; `damaged` entries were left out."""

    answers: int
    bytes: int
    damaged: int


class Imported(Struct, frozen=True):
    """The counts of an import. `other`: the cache holds another answer under this key and keeps
    it."""

    answers: int = 0
    added: int = 0
    other: int = 0
    damaged: int = 0


def export(cache: AnswerCache, file: BinaryIO) -> Exported:
    """Write every good answer. Cost: memory for a few hundred answers."""
    file.write(MAGIC + VERSION + b"\n")
    answers = size = damaged = entries = pending = 0
    body: _Body = []
    for batch in cache.entries():
        for entry in batch:
            is_name = entry.key.startswith(EXPORTED_NAMES) and is_readable(entry)
            if not is_name and not entry.is_answer:
                continue
            if entry.encoded is None or not (is_name or entry.answer):
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
    """Read the whole file once, so that nothing is imported from a truncated or foreign one.

    Raises: InputError. Cost: memory for one block.
    """
    for _ in _read_blocks(path):
        pass


def import_answers(cache: AnswerCache, path: Path, warn: Callable[[str], None]) -> Imported:
    """Add the answers of the file that the cache lacks; calls `warn` for each damaged part."""
    answers = added = other = damaged = 0
    for entries, place, body in _read_blocks(path):
        rows = _decode_body(body) if body is not None else None
        if rows is None or len(rows) != entries:
            warn(f"{place}: a damaged block of {many(entries, 'entry', 'entries')}")
            damaged += entries
            continue
        good: list[Entry] = []
        for key, stored, encoded in rows:
            entry = Entry(0, key, _valid_time(stored), encoded)
            if entry.key.startswith(EXPORTED_NAMES) and is_readable(entry):
                cache.remember_name(key, encoded)
            elif entry.is_answer and is_sound(entry):
                good.append(entry)
            else:
                warn(f"{place}: entry {entry.key[:6].hex()} is damaged")
                damaged += 1
        new, differ = cache.add_many(good)
        answers, added, other = answers + len(good), added + new, other + differ
    return Imported(answers, added, other, damaged)


def is_sound(entry: Entry) -> bool:
    """Whether the entry matches its checksum and its value is one that an endpoint may return."""
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
    """The time itself, or now for one that is invalid or in the future: an answer dated in the
    future would never be pruned."""
    now = time.time()
    return stored if math.isfinite(stored) and 0 <= stored <= now else now


def _read_blocks(path: Path) -> Iterator[tuple[int, str, bytes | None]]:
    """Entries, place and body of each block; the body is None where it does not match its
    checksum."""
    name = shown(str(path))
    try:
        with path.open("rb") as file:
            bytes_left = os.fstat(file.fileno()).st_size
            first = file.read(len(MAGIC) + len(VERSION) + 1)
            bytes_left -= len(first)
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
                    raise InputError(f"{name}: truncated after {after}, nothing was imported")
                entries, packed_bytes, plain_bytes, crc = _HEAD.unpack_from(head)
                if zlib.crc32(head[: _HEAD.size]) != _CRC.unpack_from(head, _HEAD.size)[0]:
                    raise InputError(f"{place}: damaged block head, nothing was imported")
                bytes_left -= len(head) + packed_bytes
                if bytes_left < 0:
                    raise InputError(f"{name}: truncated after {after}, nothing was imported")
                if max(packed_bytes, plain_bytes) > LARGEST_BLOCK_BYTES:
                    raise InputError(
                        f"{place}: a block of {plain_bytes:,} bytes, over {LARGEST_BLOCK_BYTES:,}"
                    )
                packed = file.read(packed_bytes)
                is_whole = zlib.crc32(packed) == crc and len(packed) == packed_bytes
                if entries == 0:
                    if not is_whole or packed != struct.pack("<Q", total) or bytes_left:
                        raise InputError(f"{place}: wrong end of the file, nothing was imported")
                    return
                total += entries
                yield entries, place, _decompress(packed, plain_bytes) if is_whole else None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise system_error(name, error) from None
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
