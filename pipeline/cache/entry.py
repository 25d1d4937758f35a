"""An answer as it stands in the file: its bytes, sealed with a checksum over key and value.

SQLite does not notice a flipped bit in a value, and a wrong vector looks like any other.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.records import Answer, Split

SERVER, PREFIX = b"server ", b"prefix "
"""How the names of what is no answer begin."""

MARK = b"textmill"
"""Written at every start, to see whether the file can be written."""

RAW = 1
"""diskcache's mode of a value that is stored as it is."""

_SPLIT = (None, 0, 0, False, "")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, int, int, bool, str]).decode


def encode_entry(key: bytes, answer: Answer | Split) -> bytes:
    """The value to keep under this key."""
    body = _encode(_SPLIT if isinstance(answer, Split) else answer)
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little") + body


def decode_entry(key: bytes, encoded: bytes) -> Answer | Split | None:
    body = encoded[4:]
    if zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little") != encoded[:4]:
        return None
    try:
        value, input_tokens, output_tokens, truncated, model = _decode(body)
    except msgspec.MsgspecError:
        return None
    if value is None:
        return Split()
    if not isinstance(value, bytes | str):
        return None
    return Answer(value, input_tokens, output_tokens, truncated, model)


class Entry(Struct, frozen=True):
    """A row of the file as it stands. `sealed` is None where it is not raw bytes.

    Units: `stored` in seconds since 1970.
    """

    row: int
    key: bytes
    stored: float
    encoded: bytes | None

    @property
    def is_name(self) -> bool:
        """What a server said of itself, or another remembered thing with a name."""
        return self.key.startswith((SERVER, PREFIX))

    @property
    def is_answer(self) -> bool:
        return len(self.key) == 32 and not self.is_name

    @property
    def name(self) -> str:
        """How people and programs call it: the key in hex, or the name."""
        return self.key.decode("utf-8", "replace") if self.is_name else self.key.hex()

    @property
    def answer(self) -> Answer | Split | None:
        """None: it is damaged."""
        return None if self.encoded is None else decode_entry(self.key, self.encoded)


def entry_of(
    row: int, key: Any, raw: Any, stored: Any, mode: Any, filename: Any, value: Any
) -> Entry:
    is_raw = mode == RAW and raw == 1 and filename is None and type(value) is bytes
    when = stored if type(stored) is float else 0.0
    name = key if type(key) is bytes else str(key).encode("utf-8", "replace")
    return Entry(row, name, when, value if is_raw and type(key) is bytes else None)
