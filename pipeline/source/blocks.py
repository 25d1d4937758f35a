"""Blocks of rows, the unit that every format reader yields.

A line or a row group may have 200 MB. A generator that waits at its `yield` keeps its local
variables, so a variable that names the last block would hold it while the next one is read: twice
the memory. Therefore a function makes each block, so that its variables end with the call, and
`map` or `drain` yield it without keeping a reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from pipeline.source.diagnosis import Diagnosis
from pipeline.source.files import InputFile

BATCH_ROWS = 256
BATCH_BYTES = 8_000_000

T = TypeVar("T")


def drain(items: list[T]) -> Iterator[T]:
    """The items of a list, in order; each is removed from the list before it is yielded."""
    items.reverse()
    while items:
        yield items.pop()


class Block(NamedTuple):
    """Consecutive rows, read but not typed yet.

    Invariant: both passes see the same rows with the same hashes, in the same order.
    """

    file: InputFile
    """The file of its rows; of texts, each of which is a file, the first one of the input."""
    numbers: Sequence[int | str]
    """Lines, counted from 1; rows of Parquet and of arrays, counted from 0; names of text files."""
    hashes: list[bytes]
    """One for each row: of its id, else of its content, which several rows may share."""
    unique: list[bool]
    """Whether each hash is that of an id."""
    ids: list[Any]
    errors: list[str | None]
    rows: Any
    """A list of objects (None: malformed), or an Arrow record batch."""
    place: str = ""
    """The address of a row up to its number."""
    columns: tuple[str, ...] = ()
    """Columns of text that the file has, whatever its rows hold."""
    diagnosis: Diagnosis | None = None
    """What the file is, where its first row shows that it is not of its format."""

    def address(self, at: int) -> str:
        """The location of a row, for people: `a.jsonl:17`, `a.parquet: row 16`."""
        return f"{self.place}{self.numbers[at]}"


class RowSelection:
    """The rows of an input to read, consulted row by row in order."""

    def __init__(self, rows: Iterable[int]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether no further row is selected."""
        return self._next is None

    def take_row(self) -> bool:
        """Whether the next row is selected; advances by one row."""
        is_selected = self._at == self._next
        if is_selected:
            self._next = next(self._rows, None)
        self._at += 1
        return is_selected

    def skip_rows(self, rows: int) -> bool:
        """Whether none of the next `rows` rows is selected; if so, advances past them."""
        if self._next is not None and self._next < self._at + rows:
            return False
        self._at += rows
        return True
