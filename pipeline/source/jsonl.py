"""Lines of a JSONL file as objects, with an error for each line that is not one.

A bad line costs one row, never its neighbours. Its error explains the fault without repeating the
content, which must not reach a log. msgspec decodes at 1.3 GB/s and rejects invalid JSON, but it
accepts duplicate keys and describes some faults poorly; the rest of this module handles those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from io import BufferedReader
from typing import Any, BinaryIO, NamedTuple

import msgspec

from pipeline.source import identity
from pipeline.source.blocks import Block, RowSelection, drain
from pipeline.source.diagnosis import HEAD_BYTES, Diagnosis, diagnose
from pipeline.source.files import InputFile, InputSpec
from pipeline.source.long_lines import LONG_BYTES, LongLine
from pipeline.source.types.json_types import INTEGERS
from pipeline.text import printable

MAX_DEPTH = 64
BATCH_ROWS = 256
BATCH_BYTES = 8_000_000


class Line(NamedTuple):
    """A line that is not blank, without its line ending; `raw` is None where it is too long."""

    number: int
    raw: bytes | None
    digest: bytes | None
    """SHA-256 of a line that is too long."""
    long: LongLine | None = None
    """The long strings that `raw` has placeholders for."""
    size: int = 0


def lines(stream: BinaryIO, max_row_bytes: int) -> Iterator[Line]:
    """The lines that are not blank, with their true numbers, counted from 1.

    A byte order mark at the start and CR before LF are not part of a line. Blank lines are skipped:
    editors leave them behind, and they hold no data.

    Cost: holds one line; of a long line its strings, of one above `max_row_bytes` only its hash.
    """
    number = 0
    at_once = min(max_row_bytes + 5, LONG_BYTES)
    while raw := stream.readline(at_once):
        number += 1
        head = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if len(raw) == at_once and not raw.endswith(b"\n"):
            del raw
            line = _read_long(number, head, stream, max_row_bytes)
            del head
        else:
            bare = head.rstrip(b"\r\n")
            is_long = len(bare) > max_row_bytes
            digest = sha256(bare).digest() if is_long else None
            line = Line(number, None if is_long else bare, digest, size=len(bare))
        if line.raw is None or (line.raw and not line.raw.isspace()):
            yield line
        del line


def _read_long(number: int, head: bytes, stream: BinaryIO, max_row_bytes: int) -> Line:
    long_line = LongLine(head, stream, max_row_bytes)
    if long_line.is_too_long:
        return Line(number, None, long_line.digest)
    return Line(number, bytes(long_line.rest), long_line.digest, long_line, LONG_BYTES)


_JSON_NAMES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def json_name(value: Any) -> str:
    """The JSON name of the type of `value`."""
    return _JSON_NAMES[type(value)]


_KEY = re.compile(rb'"[ \t\r\n]*:')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_decode = msgspec.json.Decoder().decode


def decode_line(line: Line, max_row_bytes: int) -> tuple[dict[str, Any] | None, str | None]:
    """The object on this line, or why it has none."""
    raw = line.raw
    if raw is None:
        return None, f"the line is longer than guard.max_row_bytes = {max_row_bytes:,} bytes"
    if line.long is not None and line.long.error is not None:
        return None, f"malformed JSON: {line.long.error}"
    try:
        row = _decode(raw)
        if type(row) is not dict:
            return None, f"the line must be a JSON object, got {json_name(row)}"
        keys = _count_keys(row, 1)
    except RecursionError:
        return None, f"malformed JSON: nested deeper than {MAX_DEPTH} levels"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = _json_error(raw, error)
        if line.long is not None:
            problem = line.long.without_position(problem)
        return None, f"malformed JSON: {problem}"
    # Each key has a colon outside strings: as many colons as keys proves that no key is duplicate.
    if raw.count(b":") != keys and sum(1 for _ in _KEY.finditer(raw)) != keys:
        try:
            json.loads(raw, object_pairs_hook=_reject_duplicates)
        except KeyError as error:
            return None, f"malformed JSON: duplicate key `{printable(error.args[0], 60)}`"
    return line.long.restore(row) if line.long else row, None


def _count_keys(value: Any, depth: int) -> int:
    """The number of keys in `value`, at any depth. Raises: RecursionError above `MAX_DEPTH`."""
    if depth > MAX_DEPTH:
        raise RecursionError
    nested = value.values() if type(value) is dict else value
    count = len(value) if type(value) is dict else 0
    for child in nested:
        if type(child) is dict or type(child) is list:
            count += _count_keys(child, depth + 1)
    return count


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> None:
    keys = set()
    for key, _ in pairs:
        if key in keys:
            raise KeyError(key)
        keys.add(key)


class _Constant(Exception):
    """NaN, Infinity or -Infinity in place of a JSON value."""


def _reject_constant(name: str) -> None:
    raise _Constant(name)


def _json_error(raw: bytes, error: Exception) -> str:
    """The fault of a malformed line, without its content."""
    if isinstance(error, UnicodeDecodeError):
        try:
            raw.decode()
        except UnicodeDecodeError as exact:
            return f"invalid UTF-8 at byte {exact.start + 1}"
    try:
        json.loads(raw, parse_constant=_reject_constant)
    except _Constant as constant:
        return f"{constant} is not JSON"
    except (ValueError, RecursionError):
        pass
    else:
        if _SURROGATE.search(raw):
            return "lone surrogate"
    return printable(str(error).removeprefix("JSON is malformed: "), 120)


Opener = Callable[[InputFile], AbstractContextManager[BufferedReader]]
_ID_KINDS: dict[type, type] = {str: str, int: float, float: float, bool: bool}
ID_KINDS = {"string": str, "boolean": bool, **dict.fromkeys(("float", *INTEGERS), float)}
"""The `id_kind` of later passes, by the type of the id column in the survey."""


def jsonl_blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    open_file: Opener,
    selection: RowSelection | None = None,
    id_kind: type | None = None,
) -> Iterator[Block]:
    """All rows of all files, decoded, or only those of `selection`, then with the kind of the
    ids."""
    builder = _BlockBuilder(spec, id_kind)
    for file in files:
        if selection is not None and selection.is_done:
            return
        with open_file(file) as stream:
            builder.begin(file, stream.peek(HEAD_BYTES)[:HEAD_BYTES])
            for group in _batches(_select(lines(stream, spec.max_row_bytes), selection)):
                block = builder.block(group)
                yield block
                block.rows.clear()  # the caller still holds the block while the next one is read


class _BlockBuilder:
    """Decodes lines and hashes their rows; all ids must be of the kind of the first one."""

    def __init__(self, spec: InputSpec, id_kind: type | None) -> None:
        self._spec, self._id_kind = spec, id_kind

    def begin(self, file: InputFile, head: bytes) -> None:
        """Begins a file with these first bytes."""
        self._file, self._head = file, head
        self._diagnosis: Diagnosis | None = None

    def block(self, group: list[Line]) -> Block:
        """The block of these lines; the list is emptied."""
        block = Block(self._file, [line.number for line in group], [], [], [], [], [])
        for hashed, value, error, row in map(self._row, drain(group)):
            block.hashes.append(hashed)
            block.unique.append(value is not None)
            block.ids.append(value)
            block.errors.append(error)
            block.rows.append(row)
        return block._replace(diagnosis=self._diagnosis)

    def _explained(self, error: str) -> str:
        """The error of a line that is no object, with what the file is, if it is not JSONL."""
        if self._head:
            self._diagnosis, self._head = diagnose(self._head), b""
        return error if self._diagnosis is None else f"{error} ({self._diagnosis})"

    def _row(self, line: Line) -> tuple[bytes, Any, str | None, dict[str, Any] | None]:
        """Hash, id, error and object of a line."""
        spec = self._spec
        row, error = decode_line(line, spec.max_row_bytes)
        if row is None and error is not None:
            error = self._explained(error)
        elif row is not None:
            for name, text in self._file.partition:
                row.setdefault(name, text)
        value = None
        if row is not None and spec.id is not None:
            value, problem = _row_id(row, spec.id, self._id_kind)
            error = error or problem
            if value is not None and self._id_kind is None:
                self._id_kind = _ID_KINDS[type(value)]
        if row is not None and error is None:
            text = row.get(spec.text)
            if text is not None and type(text) is not str:
                error = f"`{spec.text}` must be a string, got {json_name(text)}"
        if value is not None:
            hashed = identity.of_id(value)
        elif row is not None and spec.id is None:
            hashed = identity.of_content(row)
        else:
            hashed = identity.of_bytes(line.digest or sha256(line.raw or b"").digest())
        return hashed, value, error, row


def _select(all_lines: Iterator[Line], selection: RowSelection | None) -> Iterator[Line]:
    if selection is None:
        yield from all_lines
        return
    while not selection.is_done:
        line = next(all_lines, None)
        if line is None:
            return
        if selection.take_row():
            yield line


def _batches(selected: Iterator[Line]) -> Iterator[list[Line]]:
    group: list[Line] = []
    size = 0
    for line in selected:
        if group and (len(group) == BATCH_ROWS or size + line.size > BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += line.size
        del line
    if group:
        yield group


def _row_id(row: dict[str, Any], name: str, kind: type | None) -> tuple[Any, str | None]:
    """The row's id, or why it is not a valid one; `kind` is that of the first id."""
    value = row.get(name)
    if value is None:
        return None, f"`{name}` is {'null' if name in row else 'missing'}"
    value_kind = _ID_KINDS.get(type(value))
    if value_kind is None or (type(value) is int and not -(2**63) <= value < 2**64):
        problem = "an integer beyond 64 bits" if value_kind else json_name(value)
        return None, f"`{name}` must be a string or a number, got {problem}"
    if kind is not None and value_kind is not kind:
        return None, f"`{name}` must have the type of the earlier ids, got {json_name(value)}"
    return value, None
