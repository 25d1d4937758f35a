"""Writes parts in order: rows in, finished parts with their indexes out.

While the rows of one part are read, copied or aggregated, threads compress, sync and hash the parts
before it: in a nightly run that is most of the work.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.disk.durable import storage_errors
from pipeline.disk.spill import Records
from pipeline.parts.index import (
    ENTRY,
    REUSABLE,
    Header,
    PartIndex,
    rows_digest,
    stamp_of,
    write_index,
)
from pipeline.parts.layout import OutputLayout
from pipeline.parts.part_file import PartFile, RowGroups, conform
from pipeline.parts.schema import dimension_of
from pipeline.source.survey import ROW, Survey

FINISH_THREADS = 2
"""Parts that are finished concurrently; each holds a row group."""


class PartsWriter:
    """Writes the parts of one run in their order.

    Invariant: a part is in `finished` only after its index is durable.
    Raises: StorageError, also for parts before the current one.
    Cost: holds one row group of the current part and of each that is being finished.
    """

    def __init__(
        self, layout: OutputLayout, survey: Survey, fingerprint: str, schema: pa.Schema
    ) -> None:
        self.schema = schema
        self.written: set[str] = set()
        """Names of the parts that this run wrote."""
        self.rows = 0
        """Of the current part."""
        self._layout, self._fingerprint = layout, fingerprint
        self._survey_rows = survey.rows_by_part()
        self._part = -1
        self._file: PartFile | None = None
        self._groups = RowGroups()
        self._sizes, self._flags = array("Q"), bytearray()
        self._parts: list[PartIndex | None] = []
        self._finishing: deque[tuple[int, Future[PartIndex]]] = deque()
        """Parts that are being finished, with their positions among all, oldest first."""
        self._threads = ThreadPoolExecutor(FINISH_THREADS, "parts")

    def start_part(self, part: int) -> None:
        """Finishes the current part, if it is another one, and starts this one."""
        if part != self._part:
            self.finish()
            self._part = part

    def add(self, table: pa.Table) -> None:
        """Adds rows of output."""
        self._groups.add(table)
        self._write_groups(self._groups.complete())

    def add_lines(self, lines: bytes) -> None:
        """Adds rows of output that are already JSON lines."""
        self._write_groups(self._groups.remaining())
        self._open_part().append_lines(lines)

    def count(self, sizes: Sequence[int], flags: bytes) -> None:
        """Records the documents of the rows added: the number of rows and the flags of each."""
        self._sizes.extend(sizes)
        self._flags.extend(flags)
        self.rows += sum(sizes)

    def keep_part(self, part: PartIndex) -> None:
        """Makes this finished part the current one, without rewriting it."""
        next(self._survey_rows)
        self._parts.append(part)

    def rewrite(self, schema: pa.Schema) -> None:
        """Changes the schema; rows of the current part that were already written are rewritten."""
        self.schema = schema
        if self._file is not None:
            self._file.rewrite(schema)

    def finish(self) -> None:
        """Completes the current part; threads make it durable while others are written."""
        if not self._sizes:
            return
        rows = next(self._survey_rows)
        if len(rows) != len(self._sizes):
            raise ValueError(f"{len(self._sizes)} documents of a part of {len(rows)}")
        entries = np.zeros(len(rows), ENTRY)
        for name in ROW.names or ():
            entries[name] = rows[name]
        entries["rows"] = self._sizes
        entries["flags"] = np.frombuffer(bytes(self._flags), np.uint8)
        self._wait(FINISH_THREADS - 1)
        groups, file = list(self._groups.remaining()), self._open_part()
        finish = partial(self._finish_file, file, groups, self.schema, rows, entries)
        self._finishing.append((len(self._parts), self._threads.submit(finish)))
        self._parts.append(None)
        self._file = None
        self._sizes, self._flags, self.rows = array("Q"), bytearray(), 0

    def finished(self) -> list[PartIndex]:
        """All parts so far, except the current one."""
        self._wait(0)
        return [part for part in self._parts if part is not None]

    def _wait(self, max_parts: int) -> None:
        """Waits until at most `max_parts` parts are still being finished."""
        while len(self._finishing) > max_parts:
            at, future = self._finishing.popleft()
            self._parts[at] = future.result()

    def close(self) -> None:
        """Removes the unfinished part."""
        self._threads.shutdown()
        file, self._file = self._file, None
        if file is not None:
            file.discard()

    def _finish_file(
        self,
        file: PartFile,
        groups: Sequence[list[pa.Table]],
        schema: pa.Schema,
        rows: Records,
        entries: Records,
    ) -> PartIndex:
        try:
            for pieces in groups:
                file.write(conform(pieces, schema))
            _, digest = file.finish(by_hash=True)
        except BaseException:
            file.discard()
            raise
        with storage_errors(file.path):
            stamp = stamp_of(file.path)
        header = Header(
            fingerprint=self._fingerprint,
            rows_digest=rows_digest(rows),
            sha256=digest,
            stamp=stamp,
            documents=len(rows),
            rows=int(entries["rows"].sum()),
            dimension=dimension_of(schema),
            is_reusable=bool((entries["flags"] == REUSABLE).all()),
        )
        self.written.add(file.path.name)
        return write_index(file.path, header, entries)

    def _write_groups(self, groups: Iterable[list[pa.Table]]) -> None:
        for pieces in groups:
            self._open_part().write(conform(pieces, self.schema))

    def _open_part(self) -> PartFile:
        if self._file is None:
            self._file = PartFile(self._layout.part_path(self._part), self.schema)
        return self._file
