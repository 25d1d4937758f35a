"""Packed records in buckets of a temporary file: figures of every row in little memory.

A hash of 16 bytes takes 100 bytes as a Python object, and a table of all rows in memory would end a
run over 10^8 rows. Here records are numpy arrays, in memory up to 100,000 and on disk above.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import StorageError
from pipeline.text import reason

PACKED_ROWS = 100_000
FLUSH_ROWS = 50_000

Records = npt.NDArray[Any]


class Spill:
    """Records of one type in buckets, each read back in the order of insertion.

    Raises: StorageError where the temporary folder cannot be written.
    """

    def __init__(self, kind: np.dtype[Any]) -> None:
        self.kind = kind
        self._file = tempfile.SpooledTemporaryFile(PACKED_ROWS * kind.itemsize)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()  # source and sink read at once, in threads of their own
        self._segments: dict[int, list[_Segment]] = {}
        self._end = 0
        self._pending: list[tuple[npt.NDArray[Any], Records]] = []
        self._pending_rows = 0

    def add(self, buckets: npt.NDArray[Any], records: Records) -> None:
        """Adds each record to its bucket."""
        self._pending.append((buckets, records))
        self._pending_rows += len(records)
        if self._pending_rows >= FLUSH_ROWS:
            with self._lock:
                self._flush()

    def _flush(self) -> None:
        """Writes the pending records. Each bucket of each flush is a segment, which costs memory,
        so flushes are few."""
        pending, self._pending, self._pending_rows = self._pending, [], 0
        if not sum(len(records) for _, records in pending):
            return
        buckets = np.concatenate([numbers for numbers, _ in pending])
        records = np.concatenate([batch for _, batch in pending])
        order = np.argsort(buckets, kind="stable")
        used_buckets, starts = np.unique(buckets[order], return_index=True)
        ends = [*starts[1:], len(buckets)]
        try:
            self._file.seek(self._end)
            self._file.write(records[order].tobytes())
        except OSError as error:
            raise StorageError(f"{tempfile.gettempdir()}: {reason(error)}") from None
        for bucket, start, end in zip(used_buckets.tolist(), starts.tolist(), ends, strict=True):
            offset = self._end + start * self.kind.itemsize
            self._segments.setdefault(bucket, []).append(_Segment(offset, int(end) - start))
        self._end += len(records) * self.kind.itemsize

    def buckets(self) -> list[int]:
        """The numbers of the buckets that hold records, in order."""
        with self._lock:
            self._flush()
        return sorted(self._segments)

    def segments(self, bucket: int) -> Iterator[Records]:
        """The records of a bucket, piece by piece."""
        with self._lock:
            self._flush()
        for segment in self._segments.get(bucket, ()):
            with self._lock:
                self._file.seek(segment.offset)
                raw = self._file.read(segment.length * self.kind.itemsize)
            yield np.frombuffer(raw, self.kind)

    def bucket(self, bucket: int) -> Records:
        """All records of a bucket."""
        return np.concatenate([np.empty(0, self.kind), *self.segments(bucket)])


class _Segment(NamedTuple):
    offset: int
    length: int


class Packed:
    """Records of one type in order, read back by position. Cost: memory for up to 10,000 records
    that are not written yet."""

    def __init__(self, kind: np.dtype[Any]) -> None:
        self.kind = kind
        self._file = tempfile.SpooledTemporaryFile(PACKED_ROWS * kind.itemsize)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._pending = bytearray()

    def add(self, record: bytes) -> None:
        """Adds one record, as its bytes."""
        self._pending += record
        if len(self._pending) >= 10_000 * self.kind.itemsize:
            self._flush()

    def slice(self, start: int, stop: int) -> Records:
        """The records in [start, stop)."""
        with self._lock:
            self._flush()
            self._file.seek(start * self.kind.itemsize)
            return np.frombuffer(self._file.read((stop - start) * self.kind.itemsize), self.kind)

    def _flush(self) -> None:
        if not self._pending:
            return
        try:
            self._file.seek(0, 2)
            self._file.write(bytes(self._pending))
        except OSError as error:
            raise StorageError(f"{tempfile.gettempdir()}: {reason(error)}") from None
        self._pending.clear()
