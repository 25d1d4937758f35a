"""Reads the rows of a finished part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.disk.output_path import output_suffix
from pipeline.errors import StateError
from pipeline.parts.json_lines import PIECE_ROWS, json_lines
from pipeline.text import reason, shown

INDEX_SUFFIX = ".index"


@contextmanager
def part_errors(path: Path) -> Iterator[None]:
    """Turns read errors of a finished part into StateError, and removes the index of the unreadable
    part, so that the next run rebuilds it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            path.with_suffix(INDEX_SUFFIX).unlink(missing_ok=True)
        raise StateError(
            f"{shown(str(path))}: damaged ({reason(error)})",
            hint="run again: it is rebuilt from cached answers",
        ) from error


class PartRows:
    """The rows of a finished part, by their numbers; cheap for ranges in ascending order.

    Cost: holds one row group, or 8 bytes for each line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_json = output_suffix(path) == ".jsonl"
        self._file: Any = None
        self._starts = np.zeros(1, np.int64)
        self._at = -1
        self._group: pa.Table | None = None

    def tables(self, start: int, stop: int) -> Iterator[pa.Table]:
        """The rows in [start, stop), dictionaries decoded."""
        if self._file is None:
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
            groups = [
                self._file.metadata.row_group(at).num_rows
                for at in range(self._file.num_row_groups)
            ]
            self._starts = np.cumsum([0, *groups])
        while start < stop:
            at = int(np.searchsorted(self._starts, start, "right")) - 1
            if at != self._at or self._group is None:
                self._group = None  # so that two are never in memory
                self._group, self._at = _decode_dictionaries(self._file.read_row_group(at)), at
            take = min(stop, int(self._starts[at + 1])) - start
            yield self._group.slice(start - int(self._starts[at]), take)
            start += take

    def lines(self, start: int, stop: int) -> Iterator[bytes]:
        """The lines in [start, stop), in pieces of at most 1 MB."""
        self._find_lines()
        self._file.seek(int(self._starts[start]))
        bytes_left = int(self._starts[stop] - self._starts[start])
        while bytes_left:
            piece = self._file.read(min(bytes_left, 1 << 20))
            bytes_left -= len(piece)
            yield piece

    def _find_lines(self) -> None:
        if self._file is not None:
            return
        self._file = self.path.open("rb")
        ends = [np.zeros(1, np.int64)]
        offset = 0
        while piece := self._file.read(1 << 20):
            ends.append(np.flatnonzero(np.frombuffer(piece, np.uint8) == 10) + offset + 1)
            offset += len(piece)
        self._starts = np.concatenate(ends)

    def json(self, start: int, stop: int) -> Iterator[bytes]:
        """The rows in [start, stop) as lines of JSON, for a part of either format."""
        if self._is_json:
            self._find_lines()
            self._file.seek(int(self._starts[start]))
            for _ in range(start, stop):
                yield self._file.readline()
            return
        for table in self.tables(start, stop):
            for at in range(0, len(table), PIECE_ROWS):
                yield from json_lines(table.slice(at, PIECE_ROWS)).splitlines(keepends=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _decode_dictionaries(table: pa.Table) -> pa.Table:
    """The table with plain columns for dictionary columns, as in rows from the input."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kind = field.type.value_type
            table = table.set_column(at, field.with_type(kind), table.column(at).cast(kind))
    return table


def is_whole(path: Path, rows: int) -> bool:
    """Whether a finished part has this number of rows and a valid end; reads only the end."""
    if output_suffix(path) == ".jsonl":
        with path.open("rb") as file:
            if not rows or not file.seek(0, os.SEEK_END):
                return not rows and not file.tell()
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    try:
        return int(pq.read_metadata(path).num_rows) == rows
    except pa.ArrowException:
        return False


def is_blank(path: Path, column: str) -> bool:
    """Whether a column of a Parquet file with statistics has no value; reads only the footer."""
    metadata = pq.read_metadata(path)
    leaves = [
        group.column(at)
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for at in range(metadata.num_columns)
        if group.column(at).path_in_schema.split(".")[0] == column
    ]
    return all(leaf.statistics is not None and leaf.statistics.num_values == 0 for leaf in leaves)


def row_count(path: Path) -> int:
    """The number of rows of an output file; for JSON lines, and where it is unreadable, 1 means
    'not empty'."""
    if output_suffix(path) == ".jsonl":
        return int(path.stat().st_size > 0)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 1
