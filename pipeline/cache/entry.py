"""The stored form of an answer: its bytes with a checksum over key and value.

SQLite does not notice a flipped bit in a value, and a wrong vector looks like any other.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.records import Answer, Split

SERVER, PREFIX, ORIGIN, LINK = b"server ", b"prefix ", b"origin ", b"same model "
"""Prefixes of the keys that are names of other remembered values, not answers."""

NAMES = (SERVER, PREFIX, ORIGIN, LINK)
EXPORTED_NAMES = (PREFIX, ORIGIN, LINK)
"""Those that say something about answers, and travel with them."""

MARK = b"textmill"
"""The key written at every start, to check that the file is writable."""

RAW = 1
"""diskcache's mode for a value stored as raw bytes."""

_SPLIT = (None, 0, 0, False, "", 0)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, int, int, bool, str, int]).decode


def encode_entry(key: bytes, answer: Answer | Split) -> bytes:
    """The bytes to store under this key."""
    body = _encode(_SPLIT if isinstance(answer, Split) else answer)
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little") + body


def decode_entry(key: bytes, encoded: bytes) -> Answer | Split | None:
    """The stored answer; None where it is damaged."""
    body = encoded[4:]
    if zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little") != encoded[:4]:
        return None
    try:
        value, input_tokens, output_tokens, truncated, model, origin = _decode(body)
    except msgspec.MsgspecError:
        return None
    if value is None:
        return Split()
    if not isinstance(value, bytes | str):
        return None
    return Answer(value, input_tokens, output_tokens, truncated, model, origin)


class Entry(Struct, frozen=True):
    """A row of the file. `encoded` is None where the value is not raw bytes.

    Units: `stored` in seconds since 1970.
    """

    row: int
    key: bytes
    stored: float
    encoded: bytes | None

    @property
    def is_name(self) -> bool:
        """Whether it is a server's identity, a key prefix or an origin rather than an answer."""
        return self.key.startswith(NAMES)

    @property
    def is_answer(self) -> bool:
        return len(self.key) == 32 and not self.is_name

    @property
    def name(self) -> str:
        """The key in hex, or the name, as shown to users."""
        return self.key.decode("utf-8", "replace") if self.is_name else self.key.hex()

    @property
    def answer(self) -> Answer | Split | None:
        """None where it is damaged."""
        return None if self.encoded is None else decode_entry(self.key, self.encoded)


def entry_of(
    row: int, key: Any, raw: Any, stored: Any, mode: Any, filename: Any, value: Any
) -> Entry:
    is_raw = mode == RAW and raw == 1 and filename is None and type(value) is bytes
    when = stored if type(stored) is float else 0.0
    name = key if type(key) is bytes else str(key).encode("utf-8", "replace")
    return Entry(row, name, when, value if is_raw and type(key) is bytes else None)
