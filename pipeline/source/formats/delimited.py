"""Rows of CSV and TSV files, every column as text.

RFC 4180: a field may be quoted, then it may hold delimiters, line ends and doubled quotes. A line
that breaks these rules costs one row, never its neighbours: a reader that fails a whole block
(pyarrow), or that takes a stray quote for the beginning of a field of many lines (csv), cannot
promise it. Numbers stay as they are written: `007` is an id, and no guess may change it.
"""

from __future__ import annotations

import re
from collections import deque
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

DELIMITERS = (b",", b"\t", b";", b"|")
"""Those of .csv, the first that the header holds."""


class _Dialect(NamedTuple):
    """How the fields of a line are found: each quoted or not, and what ends it."""

    name: str
    delimiter: str
    field: re.Pattern[bytes]


def _dialect(delimiter: bytes, name: str) -> _Dialect:
    bare = re.escape(delimiter)
    quoted = rb'"([^"]*+(?:""[^"]*+)*+)"'
    field = rb"(?:" + quoted + rb'|([^"' + bare + rb"][^" + bare + rb"]*+|))(" + bare + rb"|\Z)"
    return _Dialect(name, delimiter.decode(), re.compile(field))


_OPEN = re.compile(rb'"[^"]*+(?:""[^"]*+)*+\Z')
"""A quoted field that goes on in the next line."""
_QUOTED = re.compile(rb'"[^"]*+"')


def delimited_rows(
    file: InputFile, stream: BufferedReader, spec: InputSpec, delimiter: bytes | None = None
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
    delimiter = delimiter or next((each for each in DELIMITERS if each in first), b",")
    dialect = _dialect(delimiter, file.format.name)
    records = _records(stream, dialect, spec.max_row_bytes)
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
    if isinstance(raw.parsed, str):
        return None, f"malformed {dialect.name}: {raw.parsed}"
    try:
        if raw.parsed is None:
            return raw.raw.decode().split(dialect.delimiter), None
        return [field.decode() for field in raw.parsed], None
    except UnicodeDecodeError:
        pass
    try:
        raw.raw.decode()
    except UnicodeDecodeError as exact:
        return None, f"malformed {dialect.name}: invalid UTF-8 at byte {exact.start + 1}"
    raise AssertionError  # a field is cut between characters only


class _Lines:
    """The lines of a stream with their endings; lines can be put back."""

    def __init__(self, stream: BufferedReader, max_row_bytes: int) -> None:
        self._stream, self._at_once = stream, max_row_bytes + 5
        self._back: deque[bytes] = deque()
        self.number = 0
        """Of the last line, counted from 1."""

    def next(self) -> bytes:
        """The next line, or its first bytes where it is longer than a row may be; empty at the
        end."""
        line = self._back.popleft() if self._back else self._stream.readline(self._at_once)
        self.number += bool(line)
        return line

    def put_back(self, lines: list[bytes]) -> None:
        """Makes these the next lines."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)

    def rest_of_long(self, line: bytes) -> bytes | None:
        """The SHA-256 of a line that is longer than a row may be, read to its end; else None."""
        if len(line) < self._at_once or line.endswith(b"\n"):
            return None
        total = sha256(line)
        while piece := self._stream.readline(1 << 20):
            total.update(piece)
            if piece.endswith(b"\n"):
                break
        return total.digest()


def _records(stream: BufferedReader, dialect: _Dialect, max_row_bytes: int) -> Iterator[RawRow]:
    """The rows that are not blank, undecoded; the header is the first one. `parsed`: the fields of
    a row with quotes, or a text that says why it has none.

    Cost: holds one row.
    """
    lines = _Lines(stream, max_row_bytes)
    while line := lines.next():
        number = lines.number
        bare = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
        digest = lines.rest_of_long(line)
        if digest is not None or len(bare) > max_row_bytes:
            yield RawRow(number, None, digest or sha256(bare).digest())
        elif b'"' in bare:
            yield _quoted_row(number, bare, line[len(line.rstrip(b"\r\n")) :], lines, dialect,
                              max_row_bytes)  # fmt: skip
        elif bare:
            yield RawRow(number, bare, size=len(bare))
        del line, bare


def _quoted_row(
    number: int, bare: bytes, ending: bytes, lines: _Lines, dialect: _Dialect, max_row_bytes: int
) -> RawRow:
    """The row that begins with this line, which has quotes. Where it is malformed, only this line
    is: the next ones may be rows."""
    data, first = bare, bare
    taken: list[bytes] = []
    fields: list[bytes] = []
    at = 0
    while True:
        at, error = _read_fields(data, at, dialect, fields)
        if error is None:
            return RawRow(number, data, parsed=fields, size=len(data))
        if error or not _OPEN.match(data, at):
            lines.put_back(taken)
            problem = error or "text follows a closing quote (a quote in a field must be doubled)"
            return RawRow(number, first, parsed=problem, size=len(first))
        more, is_closed = _to_quote(lines, max_row_bytes - len(data))
        if not is_closed:
            lines.put_back(taken + more)
            if sum(map(len, more)) + len(data) > max_row_bytes:
                return RawRow(number, None, sha256(first).digest())
            problem = "a quoted field has no end"
            return RawRow(number, first, parsed=problem, size=len(first))
        taken += more
        whole = b"".join([data, ending, *more])
        data = whole.rstrip(b"\r\n")
        ending = whole[len(data) :]
        del whole


def _read_fields(
    data: bytes, at: int, dialect: _Dialect, fields: list[bytes]
) -> tuple[int, str | None]:
    """Appends the fields from `at` on. Gives the start of the one that is not whole, and None where
    there is none, else an empty text."""
    while (match := dialect.field.match(data, at)) is not None:
        quoted, plain, end = match.groups()
        if quoted is None:
            fields.append(plain)
        else:
            fields.append(quoted.replace(b'""', b'"') if b'""' in quoted else quoted)
        at = match.end()
        if not end:
            return at, None
    return at, ""


def _to_quote(lines: _Lines, max_bytes: int) -> tuple[list[bytes], bool]:
    """The lines up to the one that closes the open field: it has an odd number of quotes."""
    taken: list[bytes] = []
    while max_bytes >= 0 and (line := lines.next()):
        taken.append(line)
        max_bytes -= len(line)
        if line.count(b'"') % 2:
            return taken, True
    return taken, False
