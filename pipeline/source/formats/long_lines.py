"""Decodes a line of many megabytes while reading it.

A text of 200 MB and the line that holds it take 400 MB, and a line reader holds both. So a long
line is read in pieces, each long string in it is decoded piece by piece, and the rest is a short
line with placeholders for those strings.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, BinaryIO

import msgspec

LONG_BYTES = 4 << 20
"""Longer lines are read in pieces."""
PIECE_BYTES = 1 << 20

_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ANY_BYTE = re.compile(r" ?\(byte \d+\)")
_decode = msgspec.json.Decoder(str).decode


class LongLine:
    """A line, or an element of an array, read in pieces to its end.

    Cost: holds its long strings and the rest of the line.
    """

    def __init__(self, pieces: Iterator[bytes], max_bytes: int) -> None:
        self.rest = bytearray()
        """The line, with placeholders for its long strings."""
        self.error: str | None = None
        """The error of the first long string that is malformed."""
        self.is_too_long = False
        self._mark = secrets.token_hex(16)
        self._long_strings: list[str] = []
        self._max_bytes = max_bytes
        self._pieces = pieces
        self._digest = sha256()
        self._piece = b""
        self._at = self._end = 0
        while self._next_piece():
            self._read_piece()
            if self.is_too_long or self.error is not None:
                self._piece, self._at = b"", 0
        self.digest = self._digest.digest()

    def restore(self, value: Any) -> Any:
        """`value`, decoded from the rest, with the long strings in place of the placeholders."""
        if type(value) is str and value.startswith(self._mark):
            return self._long_strings[int(value[len(self._mark) :])]
        if type(value) is list:
            value[:] = map(self.restore, value)
        elif type(value) is dict:
            for key in list(value):
                whole = self.restore(key)
                value[whole] = self.restore(value.pop(key) if whole is not key else value[key])
        return value

    def without_position(self, error: str) -> str:
        """The decoder's message without its byte offset, which would be wrong for the whole
        line."""
        return _ANY_BYTE.sub("", error)

    def _next_piece(self) -> bool:
        """Whether there is another piece; the unread end of the last one is prepended to it."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._digest.update(piece)
        self._end += len(piece)
        self.is_too_long = self._end > self._max_bytes
        self._piece, self._at = self._piece[self._at :] + piece, 0
        return True

    def _read_piece(self) -> None:
        """Reads the current piece, and to its end a string that begins in it."""
        while self._at < len(self._piece):
            quote = self._piece.find(b'"', self._at)
            stop = quote if quote >= 0 else len(self._piece)
            self.rest += self._piece[self._at : stop]
            self._at = stop
            if quote < 0:
                return
            self._at += 1
            self._read_string()

    def _read_string(self) -> None:
        """Reads a string after its opening quote; an unterminated one leaves the rest unterminated
        too."""
        contents = self._string_content()
        short = bytearray()
        for content in contents:
            short += content
            if len(short) >= PIECE_BYTES:
                text = self._decode_long(bytes(short), contents)
                short[:] = b"%s%d" % (self._mark.encode(), len(self._long_strings))
                self._long_strings.append(text)
                break
        self.rest += b'"' + short
        if self._piece[self._at : self._at + 1] == b'"':
            self.rest += b'"'
            self._at += 1

    def _string_content(self) -> Iterator[bytes]:
        """The content of a string up to its closing quote, in pieces that each decode alone."""
        while True:
            match = _INSIDE.match(self._piece, self._at)
            assert match is not None
            start, end = self._at, match.end()
            is_closed = self._piece[end : end + 1] == b'"'
            self._at = end if is_closed else _safe_cut(self._piece, start, end)
            yield self._piece[start : self._at]
            if is_closed or self.is_too_long or self.error is not None or not self._next_piece():
                return

    def _decode_long(self, first: bytes, contents: Iterator[bytes]) -> str:
        """The text of these pieces. CPython extends a local string in place on `+=`; joining the
        pieces would hold all of the text twice."""
        text = self._decode_content(first)
        for content in contents:
            text += self._decode_content(content)
        return text

    def _decode_content(self, content: bytes) -> str:
        try:
            return _decode(b'"' + content + b'"')
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            begin = self._end - len(self._piece) + self._at - len(content)
            self.error = self.error or _string_error(content, begin, error)
            return ""


def line_pieces(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """A line without its ending; `head` is its beginning."""
    ready = (head[at : at + PIECE_BYTES] for at in range(0, len(head), PIECE_BYTES))
    pending = b""
    while piece := next(ready, b"") or stream.readline(PIECE_BYTES):
        whole = pending + piece
        bare = whole.rstrip(b"\r\n")
        pending = whole[len(bare) :]
        if bare:
            yield bare
        if piece.endswith(b"\n"):
            return


def _safe_cut(piece: bytes, start: int, end: int) -> int:
    """The last place where a string's content can be cut: outside of characters, escapes and
    surrogate pairs."""
    slash = piece.rfind(b"\\", max(start, end - 12), end)
    if slash >= 0 and _is_escape(piece, start, slash) and piece[slash + 1 : slash + 2] == b"u":
        pair = slash - 6
        is_pair = pair >= start and _HIGH.match(piece, pair) and _is_escape(piece, start, pair)
        return pair if is_pair else slash
    for back in range(1, min(4, end - start + 1)):
        byte = piece[end - back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            return end - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else end
    return end


def _is_escape(piece: bytes, start: int, slash: int) -> bool:
    """Whether this backslash begins an escape, rather than ending one."""
    first = slash
    while first > start and piece[first - 1] == 0x5C:
        first -= 1
    return (slash - first) % 2 == 0


def _string_error(content: bytes, begin: int, error: Exception) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as exact:
        return f"invalid UTF-8 at byte {begin + exact.start + 1}"
    if _SURROGATE.search(content):
        return "lone surrogate"
    return _ANY_BYTE.sub("", str(error).removeprefix("JSON is malformed: "))
