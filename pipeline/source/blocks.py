"""Blocks of rows, as every format gives them; and how large ones are passed on.

A line may be 200 MB, a row group as much. A generator that waits at its `yield` keeps its local
names, so one that names the last block would hold it while the next one is read: twice the memory.
Therefore a block is made in a function, whose names end with it, and passed on by `map` or
`drain`, which hold nothing that they have given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from pipeline.source.files import InputFile, family

T = TypeVar("T")


def drain(items: list[T]) -> Iterator[T]:
    """The items of a list, in order; the list forgets each as it is given, and is empty at last."""
    items.reverse()
    while items:
        yield items.pop()


class Block(NamedTuple):
    """Neighbouring rows, read but not typed yet.

    Invariant: both passes see the same rows with the same hashes, in the same order.
    """

    file: InputFile
    numbers: Sequence[int]
    """Lines, counted from 1, or Parquet rows, counted from 0."""
    hashes: list[bytes]
    """Of the id, else of the content, which several rows may share."""
    unique: list[bool]
    """Whether the hash is that of an id."""
    ids: list[Any]
    errors: list[str | None]
    rows: Any
    """A list of objects (None: malformed), or an Arrow record batch."""

    def address(self, at: int) -> str:
        between = ": row " if family(self.file.path) == "parquet" else ":"
        return f"{self.file.name}{between}{self.numbers[at]}"


class RowSelection:
    """Which of the rows of an input are to be read, asked row by row in order."""

    def __init__(self, rows: Iterable[int]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether no further row is wanted."""
        return self._next is None

    def take_row(self) -> bool:
        """Whether the row that comes now is wanted."""
        is_wanted = self._at == self._next
        if is_wanted:
            self._next = next(self._rows, None)
        self._at += 1
        return is_wanted

    def skip_rows(self, rows: int) -> bool:
        """Whether none of so many rows is wanted; then they count as passed."""
        if self._next is not None and self._next < self._at + rows:
            return False
        self._at += rows
        return True
