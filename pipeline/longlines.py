"""A line of many megabytes, decoded while it is read.

A text of 200 MB in memory is 200 MB; its line beside it are 200 more, and what reads lines holds
both. So a long line is read in pieces, each long string in it is decoded piece by piece, and what
is left is a short line with marks in the places of those strings.
"""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, BinaryIO

import msgspec

LONG_BYTES = 8 << 20
"""A line above this is read in pieces."""
PIECE_BYTES = 1 << 20

_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ANY_BYTE = re.compile(r" ?\(byte \d+\)")
_decode = msgspec.json.Decoder(str).decode


class LongLine:
    """A line in pieces, of which the first are `head`; read to its end.

    Cost: its long strings, and what is not in them.
    """

    def __init__(self, head: bytes, stream: BinaryIO, most_bytes: int) -> None:
        self.rest = bytearray()
        """The line, with marks in place of its long strings."""
        self.error: str | None = None
        """Why one of the long strings is none."""
        self.is_too_long = False
        self._mark = secrets.token_hex(16)
        self._texts: list[str] = []
        self._short = bytearray()
        self._long: io.StringIO | None = None
        self._is_inside = False
        self._read = 0
        digest = sha256()
        left = b""
        for piece in _pieces(head, stream):
            digest.update(piece)
            if self.is_too_long or self.error is not None:
                continue
            left = self._taken(left + piece, self._read - len(left))
            self._read += len(piece)
            self.is_too_long = self._read > most_bytes
        self.digest = digest.digest()
        if self._is_inside:  # the end of the line, but not of the string
            self.rest += b'"' + self._short
        self.rest += left
        self._long = None

    def filled(self, value: Any) -> Any:
        """What the rest was decoded to, with the long strings in their places."""
        if type(value) is str and value.startswith(self._mark):
            return self._texts[int(value[len(self._mark) :])]
        if type(value) is list:
            value[:] = map(self.filled, value)
        elif type(value) is dict:
            for key in list(value):
                whole = self.filled(key)
                value[whole] = self.filled(value.pop(key) if whole is not key else value[key])
        return value

    def told(self, error: str) -> str:
        """What is wrong with the rest, without a place, which would be another in the line."""
        return _ANY_BYTE.sub("", error)

    def _taken(self, some: bytes, begin: int) -> bytes:
        """Takes all that is whole of these bytes, the first of which is number `begin` of the
        line; returns what is not."""
        at = 0
        while at < len(some):
            if not self._is_inside:
                quote = some.find(b'"', at)
                self.rest += some[at : quote if quote >= 0 else len(some)]
                if quote < 0:
                    return b""
                at, self._is_inside = quote + 1, True
                continue
            found = _INSIDE.match(some, at)
            assert found is not None
            end = found.end()
            is_closed = some[end : end + 1] == b'"'
            cut = end if is_closed else _safe(some, at, end)
            self._add(some[at:cut], begin + at)
            if not is_closed:
                return some[cut:]
            self._close()
            at = end + 1
        return b""

    def _add(self, content: bytes, begin: int) -> None:
        """More of the string that is open."""
        if self._long is None and len(self._short) + len(content) < PIECE_BYTES:
            self._short += content
            return
        if self._long is None:
            self._long = io.StringIO(newline="")
            self._decoded(bytes(self._short), begin - len(self._short))
            self._short.clear()
        self._decoded(content, begin)

    def _decoded(self, content: bytes, begin: int) -> None:
        assert self._long is not None
        try:
            self._long.write(_decode(b'"' + content + b'"'))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.error = self.error or _wrong(content, begin, error)

    def _close(self) -> None:
        if self._long is None:
            self.rest += b'"' + self._short + b'"'
            self._short.clear()
        else:
            self.rest += b'"%s%d"' % (self._mark.encode(), len(self._texts))
            self._texts.append(self._long.getvalue())
            self._long = None
        self._is_inside = False


def _pieces(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The line without its ending."""
    held, piece = b"", head
    while piece:
        whole = held + piece
        bare = whole.rstrip(b"\r\n")
        held = whole[len(bare) :]
        if bare:
            yield bare
        if piece.endswith(b"\n"):
            return
        piece = stream.readline(PIECE_BYTES)


def _safe(some: bytes, start: int, end: int) -> int:
    """Where the inside of a string may be cut at its end: in no character, in no escape, and
    between no two that are one character."""
    slash = some.rfind(b"\\", max(start, end - 12), end)
    if slash >= 0 and _is_escape(some, start, slash) and some[slash + 1 : slash + 2] == b"u":
        pair = slash - 6
        is_pair = pair >= start and _HIGH.match(some, pair) and _is_escape(some, start, pair)
        return pair if is_pair else slash
    for back in range(1, min(4, end - start + 1)):
        byte = some[end - back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            return end - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else end
    return end


def _is_escape(some: bytes, start: int, slash: int) -> bool:
    """Whether an escape begins at this backslash, and is not itself the end of one."""
    first = slash
    while first > start and some[first - 1] == 0x5C:
        first -= 1
    return (slash - first) % 2 == 0


def _wrong(content: bytes, begin: int, error: Exception) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as exact:
        return f"invalid UTF-8 at byte {begin + exact.start + 1}"
    if _SURROGATE.search(content):
        return "a lone surrogate is no character"
    return _ANY_BYTE.sub("", str(error).removeprefix("JSON is malformed: "))
