"""The results of the survey: the records that every later stage reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from pipeline.disk.spill import PACKED_ROWS, Packed, Records, Spill
from pipeline.source.files import InputFile, InputSpec
from pipeline.source.types.json_types import JsonType

MARK = np.dtype([("hash", "V16"), ("unique", "?"), ("used", "V16")])
ROW = np.dtype([("hash", "V16"), ("nth", "<u8"), ("unique", "?"), ("used", "V16")])
"""The identity of a row: the hash of its id (`unique`) or of its content, the number of earlier
rows with that content, and the hash of the columns used."""


class Survey(Struct, frozen=True):
    """The facts about the input that are known before the first request.

    Invariant: `sum(part_rows) == rows`; `pipeline.source.documents.read` yields exactly these rows.
    """

    spec: InputSpec
    files: tuple[InputFile, ...]
    rows: int
    schema: Any
    """Arrow schema of the kept columns, preceded by the id where it is not among them."""
    part_rows: Sequence[int]
    occurrences: Occurrences
    fingerprint: str
    types: Mapping[str, JsonType] | None
    """The types of JSON keys; None for Parquet, which declares its own."""
    marks: Packed
    """For each row, in order: its hash and the hash of the columns used."""
    widened: frozenset[str] = frozenset()
    """JSON keys in which floats followed integers; an earlier row may then be isolated."""
    absent: tuple[str, ...] = ()
    """Columns of rules that are missing from every row."""
    columns: tuple[str, ...] = ()
    """The names of all columns, as far as they are known."""
    warnings: tuple[str, ...] = ()
    """Lines about the input that the user should read before anything is paid, such as
    `a.jsonl: the file is a JSON array, not JSONL (jq -c '.[]' FILE > FILE.jsonl)`."""

    def rows_by_part(self) -> Iterator[Records]:
        """The identities of the rows, in order: one array of `ROW` for each part."""
        repeats = iter(self.occurrences)
        repeat = next(repeats, None)
        start = 0
        for count in self.part_rows:
            marks = self.marks.slice(start, start + count)
            rows = np.zeros(count, ROW)
            for name in ("hash", "used", "unique"):
                rows[name] = marks[name]
            while repeat is not None and repeat[0] < start + count:
                rows["nth"][repeat[0] - start] = repeat[1]
                repeat = next(repeats, None)
            start += count
            yield rows


_REPEAT = np.dtype([("row", "<u8"), ("nth", "<u8")])


class Occurrences:
    """The rows whose content occurred before, as pairs (row, earlier occurrences), sorted by
    row."""

    def __init__(self) -> None:
        self._spill = Spill(_REPEAT)

    def add(self, rows: list[int], counts: list[int]) -> None:
        records = np.empty(len(rows), _REPEAT)
        records["row"], records["nth"] = rows, counts
        self._spill.add(records["row"] // PACKED_ROWS, records)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for bucket in self._spill.buckets():
            block = self._spill.bucket(bucket)
            yield from block[np.argsort(block["row"])].tolist()
