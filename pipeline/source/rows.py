"""Rows of files that are read from front to back: what their formats have in common.

A format parts a file into raw rows and decodes one to an object. Everything else is the same for
all of them and is here: ids, hashes, partitions, batches, and the rows that a resumed run skips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Any, NamedTuple

from pipeline.source import identity
from pipeline.source.blocks import BATCH_BYTES, BATCH_ROWS, Block, RowSelection, drain
from pipeline.source.diagnosis import Diagnosis
from pipeline.source.files import InputFile, InputSpec
from pipeline.source.types.json_types import INTEGERS, json_name


class RawRow(NamedTuple):
    """A row that is not decoded; `raw` is None where it is too long."""

    number: int | str
    raw: bytes | None
    digest: bytes | None = None
    """SHA-256 of a row that is too long."""
    parsed: Any = None
    """What the format knows of it besides its bytes."""
    size: int = 0


Decoded = tuple[dict[str, Any] | None, str | None]
"""The object of a row and its error. Invariant: one of them is None, except where the object still
identifies a row that cannot be read."""


def _no_diagnosis() -> None:
    return None


class RawRows(NamedTuple):
    """The rows of an open file."""

    rows: Iterator[RawRow]
    decode: Callable[[RawRow], Decoded]
    separator: str = ":"
    """What is between the name of the file and the number of a row."""
    columns: tuple[str, ...] = ()
    """Columns of text that the file has, whatever its rows hold."""
    diagnose: Callable[[], Diagnosis | None] = _no_diagnosis
    """What the file is, if not of its format; called at the first row that is no object."""


Opener = Callable[[InputFile], AbstractContextManager[RawRows]]
_ID_KINDS: dict[type, type] = {str: str, int: float, float: float, bool: bool}
ID_KINDS = {"string": str, "boolean": bool, **dict.fromkeys(("float", *INTEGERS), float)}
"""The `id_kind` of later passes, by the type of the id column in the survey."""


def row_blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    open_rows: Opener,
    selection: RowSelection | None = None,
    id_kind: type | None = None,
) -> Iterator[Block]:
    """All rows of all files, decoded, or only those of `selection`, then with the kind of the
    ids."""
    builder = BlockBuilder(spec, id_kind)
    for file in files:
        if selection is not None and selection.is_done:
            return
        with open_rows(file) as opened:
            builder.begin(file, opened, file.partition)
            if opened.columns:
                yield builder.block([])
            for group in batches(_select(opened.rows, selection)):
                block = builder.block(group)
                yield block
                block.rows.clear()  # the caller still holds the block while the next one is read


class BlockBuilder:
    """Decodes rows and hashes them; all ids must be of the kind of the first one."""

    def __init__(self, spec: InputSpec, id_kind: type | None) -> None:
        self._spec, self._id_kind = spec, id_kind

    def begin(
        self, file: InputFile, opened: RawRows, constants: Iterable[tuple[str, str | None]]
    ) -> None:
        """Begins a file, whose rows have these columns unless they have them themselves."""
        self._file, self._opened, self._constants = file, opened, tuple(constants)
        self._diagnosis: Diagnosis | None = None
        self._is_diagnosed = False

    def block(self, group: list[RawRow]) -> Block:
        """The block of these rows; the list is emptied."""
        place = f"{self._file.name}{self._opened.separator}" if self._opened.separator else ""
        numbers = [row.number for row in group]
        columns = self._opened.columns
        block = Block(self._file, numbers, [], [], [], [], [], place, columns)
        for hashed, value, error, row in map(self._row, drain(group)):
            block.hashes.append(hashed)
            block.unique.append(value is not None)
            block.ids.append(value)
            block.errors.append(error)
            block.rows.append(row)
        return block._replace(diagnosis=self._diagnosis)

    def _explained(self, error: str) -> str:
        """The error of a row that is no object, with what the file is, if not of its format."""
        if not self._is_diagnosed:
            self._diagnosis, self._is_diagnosed = self._opened.diagnose(), True
        return error if self._diagnosis is None else f"{error} ({self._diagnosis})"

    def _row(self, raw: RawRow) -> tuple[bytes, Any, str | None, dict[str, Any] | None]:
        """Hash, id, error and object of a row."""
        spec = self._spec
        row, error = self._opened.decode(raw)
        if row is None and error is not None:
            error = self._explained(error)
        elif row is not None:
            for name, text in self._constants:
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
            hashed = identity.of_bytes(raw.digest or sha256(raw.raw or b"").digest())
        return hashed, value, error, row


def _select(rows: Iterator[RawRow], selection: RowSelection | None) -> Iterator[RawRow]:
    if selection is None:
        yield from rows
        return
    while not selection.is_done:
        row = next(rows, None)
        if row is None:
            return
        if selection.take_row():
            yield row
        del row


def batches(selected: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    """The rows in groups of at most 256 rows and some 8 MB; a larger row is a group of its own."""
    group: list[RawRow] = []
    size = 0
    for row in selected:
        if group and (len(group) == BATCH_ROWS or size + row.size > BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(row)
        size += row.size
        del row
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
