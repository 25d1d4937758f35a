"""Rows of CSV and TSV files, every column as text.

RFC 4180: a field may be quoted, then it may hold delimiters, line ends and doubled quotes. A line
that breaks these rules costs one row, never its neighbours: a reader that fails a whole block
(pyarrow), or that takes a stray quote for the beginning of a field of many lines (csv), cannot
promise it. Numbers stay as they are written: `007` is an id, and no guess may change it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from io import BufferedReader
from typing import NamedTuple

from pipeline.errors import InputError, UsageError
from pipeline.source.diagnosis import HEAD_BYTES, diagnose_table
from pipeline.source.files import InputFile, InputSpec
from pipeline.source.rows import Decoded, RawRow, RawRows
from pipeline.text import many, printable

_PIECE_BYTES = 1 << 20
_TOO_LONG = "too long"
DELIMITERS = (",", "\t", ";", "|")
"""Those of .csv, the first that the header holds."""


class _Dialect(NamedTuple):
    """How rows and their fields are found."""

    name: str
    delimiter: str
    row: re.Pattern[bytes]
    """A row with its line end; the last line of a file may have none."""
    start: re.Pattern[bytes]
    """The fields of a row before the last one, or before the one that is malformed."""
    field: re.Pattern[str]
    """A field of a row, quoted or not, and what ends it."""


_TO_QUOTE = r'[^"]*+(?:""[^"]*+)*+'
_OPEN = re.compile(('"' + _TO_QUOTE + r'(?:"\r?)?\Z').encode())
"""A quoted field that goes on behind the bytes at hand; a quote at their end may be the first of
two."""
_QUOTED = re.compile(rb'"[^"]*+"')


def _dialect(delimiter: str, name: str) -> _Dialect:
    end = re.escape(delimiter)
    quoted, plain = f'"{_TO_QUOTE}"', f'[^"{end}\n][^{end}\n]*+|'
    start = f"(?:(?:{quoted}|{plain}){end})*+"
    row = f"{start}(?:{quoted}\r?|{plain})\n"
    field = f'(?:"({_TO_QUOTE})"|([^"{end}][^{end}]*+|))({end}|\\Z)'
    return _Dialect(
        name, delimiter, re.compile(row.encode()), re.compile(start.encode()), re.compile(field)
    )


def delimited_rows(
    file: InputFile, stream: BufferedReader, spec: InputSpec, delimiter: str | None = None
) -> RawRows:
    """The rows below the header. Without a delimiter, the header shows which one it is.

    Raises: InputError where the file is something else, or its header cannot be read; UsageError
    where two columns have one name.
    """
    head = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if (wrong := diagnose_table(head)) is not None:
        wrong = wrong._replace(expected=file.format.name)
        raise InputError(f"{file.name}: {wrong}", hint=wrong.hint or None)
    first = _QUOTED.sub(b"", head.partition(b"\n")[0])
    delimiter = delimiter or next((each for each in DELIMITERS if each.encode() in first), ",")
    dialect = _dialect(delimiter, file.format.name)
    records = _Records(stream, dialect, spec.max_row_bytes).rows()
    header = next(records, None)
    if header is None:
        return RawRows(iter(()), partial(_decode, names=(), dialect=dialect, spec=spec))
    fields, error = _fields(header, dialect, spec)
    if fields is None:
        place = f"{file.name}:{header.number}"
        raise InputError(
            f"{place}: the header cannot be read: {error}",
            hint="a table begins with the names of its columns, in UTF-8",
        )
    names = tuple(name or f"column_{at}" for at, name in enumerate(fields, 1))
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            f"{file.name}:{header.number}: two columns are named `{printable(duplicate)}`"
        )
    decode = partial(_decode, names=names, dialect=dialect, spec=spec)
    return RawRows(records, decode, columns=names)


def _decode(raw: RawRow, names: tuple[str, ...], dialect: _Dialect, spec: InputSpec) -> Decoded:
    """The row as an object."""
    fields, error = _fields(raw, dialect, spec)
    if fields is None:
        return None, error
    if len(fields) != len(names):
        count = many(len(fields), "field")
        return None, f"malformed {dialect.name}: the line has {count}, the header {len(names):,}"
    return dict(zip(names, fields, strict=True)), None


def _fields(raw: RawRow, dialect: _Dialect, spec: InputSpec) -> tuple[list[str] | None, str | None]:
    """The fields of a row, or why they cannot be read."""
    if raw.raw is None:
        return None, f"the row is longer than guard.max_row_bytes = {spec.max_row_bytes:,} bytes"
    if raw.parsed is not None:
        return None, f"malformed {dialect.name}: {raw.parsed}"
    try:
        text = raw.raw.decode()
    except UnicodeDecodeError as exact:
        return None, f"malformed {dialect.name}: invalid UTF-8 at byte {exact.start + 1}"
    if b'"' not in raw.raw:
        return text.split(dialect.delimiter), None
    found = dialect.field.findall(text)
    if len(found) > 1 and not found[-2][2]:
        found.pop()  # an empty match at the end, behind the last field
    return [
        (quoted.replace('""', '"') if '""' in quoted else quoted) if quoted else plain
        for quoted, plain, _ in found
    ], None


class _Records:
    """The rows of a stream that are not blank, undecoded; the header is the first one. `parsed` is
    the fault of a malformed row, which is one line.

    Cost: holds one row, and the piece of the file around it.
    """

    def __init__(self, stream: BufferedReader, dialect: _Dialect, max_row_bytes: int) -> None:
        self._stream, self._dialect, self._max_row_bytes = stream, dialect, max_row_bytes
        self._data, self._at, self._number = b"", 0, 1
        self._is_last = False

    def rows(self) -> Iterator[RawRow]:
        """The rows."""
        self._fill()
        self._at = 3 if self._data.startswith(b"\xef\xbb\xbf") else 0
        while self._at < len(self._data) or not self._is_last:
            match = self._dialect.row.match(self._data, self._at)
            if match is not None:
                number, raw = self._number, self._take(match.end())
                if len(raw) > self._max_row_bytes:
                    yield RawRow(number, None, sha256(raw).digest())
                elif raw:
                    yield RawRow(number, raw, size=len(raw))
            elif (fault := self._fault()) is None:
                self._fill()
            else:
                yield self._bad_row(fault)

    def _take(self, end: int) -> bytes:
        """The bytes before `end` without their line end; they are counted as read."""
        raw = self._data[self._at : end].rstrip(b"\r\n")
        self._number += self._data.count(b"\n", self._at, end)
        self._at = end
        return raw

    def _fill(self) -> None:
        """Reads on; twice as much as there is, so that a long row is not searched too often."""
        self._data, self._at = self._data[self._at :], 0
        more = self._stream.read(max(_PIECE_BYTES, len(self._data)))
        self._data += more
        if not more:
            self._is_last = True
            if self._data and not self._data.endswith(b"\n"):
                self._data += b"\n"  # the last line may have no end

    def _fault(self) -> str | None:
        """Why no row begins here; None where more bytes may show one."""
        start = self._dialect.start.match(self._data, self._at)
        end = start.end() if start is not None else self._at
        is_open = _OPEN.match(self._data, end) is not None
        if not is_open and self._data.startswith(b'"', end):
            return "text follows a closing quote (a quote in a field must be doubled)"
        if len(self._data) - self._at > self._max_row_bytes + 2:
            return _TOO_LONG
        return "a quoted field has no end" if self._is_last else None

    def _bad_row(self, fault: str) -> RawRow:
        """The line that begins here: the lines below may be rows."""
        number, digest, size = self._number, sha256(), 0
        while (end := self._data.find(b"\n", self._at)) < 0 and not self._is_last:
            digest.update(self._data[self._at :])
            size += len(self._data) - self._at
            self._at = len(self._data)
            self._fill()
        raw = self._take(end + 1)
        digest.update(raw)
        if fault is _TOO_LONG or size + len(raw) > self._max_row_bytes:
            return RawRow(number, None, digest.digest())
        return RawRow(number, raw, digest.digest(), fault, len(raw))
