"""The elements of a JSON array as rows, read piece by piece.

A file may have gigabytes, so it is never whole in memory. The elements are found by brackets and
commas outside strings, which one regular expression skips in C, and each is decoded like a line of
JSONL: with the same errors, and the same memory for a text of 200 MB. A streaming parser (ijson)
makes every object in Python, accepts other JSON, and has no way to isolate a bad row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from itertools import chain

from pipeline.errors import InputError
from pipeline.source.diagnosis import HEAD_BYTES, Diagnosis, diagnose
from pipeline.source.files import InputFile, InputSpec
from pipeline.source.formats.jsonl import decode_object, jsonl_rows, long_row
from pipeline.source.formats.long_lines import LONG_BYTES, PIECE_BYTES, LongLine
from pipeline.source.rows import RawRow, RawRows

_BLANKS = b" \t\r\n"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+', re.DOTALL)
_TO_COMMA = re.compile(rb'[^"{}\[\],]*+(?:' + _STRING + rb'[^"{}\[\],]*+)*+', re.DOTALL)
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


def json_rows(file: InputFile, stream: BufferedReader, spec: InputSpec) -> RawRows:
    """The elements of an array, or the lines of a file that begins with anything else."""
    head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return jsonl_rows(file, stream, spec)._replace(diagnose=partial(_diagnosis, head))
    return RawRows(
        _Elements(file, stream, spec.max_row_bytes).rows(),
        partial(decode_object, what="row", max_row_bytes=spec.max_row_bytes),
        ": row ",
        diagnose=partial(_diagnosis, head),
    )


def _diagnosis(head: bytes) -> Diagnosis | None:
    found = diagnose(head)
    if found is None or found.what == "a JSON array":
        return None
    return found._replace(expected="an array or lines of JSON objects")


class _Elements:
    """The elements of one array, or of several ones in a row, numbered from 0."""

    def __init__(self, file: InputFile, stream: BufferedReader, max_row_bytes: int) -> None:
        self._file, self._stream, self._max_row_bytes = file, stream, max_row_bytes
        self._buffer, self._at = b"", 0
        self._ended_by = b""
        """The `,` or `]` behind the last element; empty at the end of the file."""

    def rows(self) -> Iterator[RawRow]:
        """The elements, undecoded. Raises: InputError where the file ends within the array, since
        nobody can tell then how many rows are missing."""
        number = 0
        self._fill()
        if self._buffer.startswith(b"\xef\xbb\xbf"):
            self._at = 3
        while (start := self._next_byte()) is not None:
            if start != b"[":
                raise InputError(
                    f"{self._file.name}: text after the array, behind row {number - 1}"
                )
            self._at += 1
            if self._next_byte() == b"]":
                self._at += 1
                continue
            while True:
                row = self._row(number)
                if not self._ended_by:
                    raise self._unfinished(number)
                yield row
                del row
                number += 1
                if self._ended_by == b"]":
                    break

    def _row(self, number: int) -> RawRow:
        pieces = self._pieces()
        start = [next(pieces, b"").lstrip(_BLANKS)]
        size = len(start[0])
        for piece in pieces:
            start.append(piece)
            size += len(piece)
            if size >= LONG_BYTES:
                return long_row(number, LongLine(chain(start, pieces), self._max_row_bytes))
        raw = b"".join(start).rstrip(_BLANKS)
        if len(raw) > self._max_row_bytes:
            return long_row(number, LongLine(iter([raw]), self._max_row_bytes))
        return RawRow(number, raw, size=len(raw))

    def _pieces(self) -> Iterator[bytes]:
        """The bytes up to the comma or the bracket that ends the element."""
        depth = 0
        position = self._at
        while True:
            skip = _TO_BRACKET if depth else _TO_COMMA
            match = skip.match(self._buffer, position)
            assert match is not None
            position = match.end()
            found = self._buffer[position : position + 1]
            if found == b'"' or not found:
                if position > self._at:
                    yield self._take(position)
                if found:
                    yield from self._string()
                elif not self._fill():
                    self._ended_by = b""
                    return
                position = self._at
                continue
            if depth == 0 and found in b",]":
                yield self._take(position)
                self._at += 1
                self._ended_by = found
                return
            depth = depth + 1 if found in b"{[" else max(0, depth - 1)
            position += 1

    def _string(self) -> Iterator[bytes]:
        """The rest of a string that the buffer does not hold whole, from its opening quote."""
        inside = self._at + 1
        while True:
            match = _INSIDE.match(self._buffer, inside)
            assert match is not None
            end = match.end()
            if self._buffer[end : end + 1] == b'"':
                yield self._take(end + 1)
                return
            if end > self._at:
                yield self._take(end)  # but for the backslash of an escape that is cut
            if not self._fill():
                return
            inside = self._at

    def _take(self, end: int) -> bytes:
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    def _fill(self) -> bool:
        """Whether there are more bytes in the file; they follow those that are not taken yet."""
        more = self._stream.read(PIECE_BYTES)
        self._buffer, self._at = self._buffer[self._at :] + more, 0
        return bool(more)

    def _next_byte(self) -> bytes | None:
        """The next byte that is not blank; None at the end of the file."""
        while True:
            rest = self._buffer[self._at : self._at + 1]
            if not rest:
                if not self._fill():
                    return None
            elif rest in _BLANKS:
                self._at += 1
            else:
                return rest

    def _unfinished(self, number: int) -> InputError:
        return InputError(
            f"{self._file.name}: the JSON array ends in the middle, in row {number}: the file is "
            "incomplete, or a bracket or quote of that row has no end",
            hint="rows before it: jq -cn --stream 'fromstream(1|truncate_stream(inputs))' FILE",
        )
