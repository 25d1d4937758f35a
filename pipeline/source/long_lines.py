"""A line of many megabytes, decoded while it is read.

A text of 200 MB in memory is 200 MB; its line beside it are 200 more, and what reads lines holds
both. So a long line is read in pieces, each long string in it is decoded piece by piece, and what
is left is a short line with marks in the places of those strings.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, BinaryIO

import msgspec

LONG_BYTES = 4 << 20
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
        self._most_bytes = most_bytes
        self._pieces = _pieces(head, stream)
        self._digest = sha256()
        self._some = b""
        self._at = self._end = 0
        while self._more():
            self._outside()
            if self.is_too_long or self.error is not None:
                self._some, self._at = b"", 0
        self.digest = self._digest.digest()

    def restore(self, value: Any) -> Any:
        """What the rest was decoded to, with the long strings in their places."""
        if type(value) is str and value.startswith(self._mark):
            return self._texts[int(value[len(self._mark) :])]
        if type(value) is list:
            value[:] = map(self.restore, value)
        elif type(value) is dict:
            for key in list(value):
                whole = self.restore(key)
                value[whole] = self.restore(value.pop(key) if whole is not key else value[key])
        return value

    def without_position(self, error: str) -> str:
        """What is wrong with the rest, without a place, which would be another in the line."""
        return _ANY_BYTE.sub("", error)

    def _more(self) -> bool:
        """Whether there is another piece; what was not taken of the last one stands before it."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._digest.update(piece)
        self._end += len(piece)
        self.is_too_long = self._end > self._most_bytes
        self._some, self._at = self._some[self._at :] + piece, 0
        return True

    def _outside(self) -> None:
        """Takes what there is, and with it the end of a string that begins there."""
        while self._at < len(self._some):
            quote = self._some.find(b'"', self._at)
            stop = quote if quote >= 0 else len(self._some)
            self.rest += self._some[self._at : stop]
            self._at = stop
            if quote < 0:
                return
            self._at += 1
            self._string()

    def _string(self) -> None:
        """Takes a string behind its first quote; one that does not end leaves a rest that does not
        either."""
        inside = self._inside()
        short = bytearray()
        for content in inside:
            short += content
            if len(short) >= PIECE_BYTES:
                text = self._grown(bytes(short), inside)
                short[:] = b"%s%d" % (self._mark.encode(), len(self._texts))
                self._texts.append(text)
                break
        self.rest += b'"' + short
        if self._some[self._at : self._at + 1] == b'"':
            self.rest += b'"'
            self._at += 1

    def _inside(self) -> Iterator[bytes]:
        """The inside of a string up to its last quote, cut where it may be."""
        while True:
            found = _INSIDE.match(self._some, self._at)
            assert found is not None
            start, end = self._at, found.end()
            is_closed = self._some[end : end + 1] == b'"'
            self._at = end if is_closed else _safe_cut(self._some, start, end)
            yield self._some[start : self._at]
            if is_closed or self.is_too_long or self.error is not None or not self._more():
                return

    def _grown(self, first: bytes, inside: Iterator[bytes]) -> str:
        """The text of these pieces. It grows in place, which is what CPython does for `+=` on a
        name of the function's own: joining them would hold all of it twice."""
        text = self._decoded(first)
        for content in inside:
            text += self._decoded(content)
        return text

    def _decoded(self, content: bytes) -> str:
        try:
            return _decode(b'"' + content + b'"')
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            begin = self._end - len(self._some) + self._at - len(content)
            self.error = self.error or _string_error(content, begin, error)
            return ""


def _pieces(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The line without its ending."""
    ready = (head[at : at + PIECE_BYTES] for at in range(0, len(head), PIECE_BYTES))
    held = b""
    while piece := next(ready, b"") or stream.readline(PIECE_BYTES):
        whole = held + piece
        bare = whole.rstrip(b"\r\n")
        held = whole[len(bare) :]
        if bare:
            yield bare
        if piece.endswith(b"\n"):
            return


def _safe_cut(some: bytes, start: int, end: int) -> int:
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


def _string_error(content: bytes, begin: int, error: Exception) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as exact:
        return f"invalid UTF-8 at byte {begin + exact.start + 1}"
    if _SURROGATE.search(content):
        return "a lone surrogate is no character"
    return _ANY_BYTE.sub("", str(error).removeprefix("JSON is malformed: "))
