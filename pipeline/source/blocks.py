"""Blocks of rows, as every format gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.source.files import InputFile, family


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


class Chosen:
    """Which of the rows of an input are to be read, asked row by row in order."""

    def __init__(self, rows: Iterable[int]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether no further row is wanted."""
        return self._next is None

    def takes(self) -> bool:
        """Whether the row that comes now is wanted."""
        is_wanted = self._at == self._next
        if is_wanted:
            self._next = next(self._rows, None)
        self._at += 1
        return is_wanted

    def skips(self, rows: int) -> bool:
        """Whether none of so many rows is wanted; then they count as passed."""
        if self._next is not None and self._next < self._at + rows:
            return False
        self._at += rows
        return True
