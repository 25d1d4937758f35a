"""Parts, one after the other: rows in, finished parts with their indexes out.

While the rows of one part are read, copied or aggregated, those before it are compressed, synced
and hashed in threads of their own: at night that is most of the work.
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

AT_ONCE = 2
"""Parts that are finished at a time: each holds a row group."""


class PartsWriter:
    """Writes the parts of one run in their order.

    Invariant: a part is followed by its index, and only then it is among `finished`.
    Raises: StorageError, also for parts before the one at hand.
    Cost: holds one row group of the part at hand and of each that is being finished.
    """

    def __init__(
        self, layout: OutputLayout, survey: Survey, fingerprint: str, schema: pa.Schema
    ) -> None:
        self.schema = schema
        self.written: set[str] = set()
        """Names of the parts that this run wrote."""
        self.rows = 0
        """Of the part at hand."""
        self._layout, self._fingerprint = layout, fingerprint
        self._survey_rows = survey.rows_by_part()
        self._part = -1
        self._file: PartFile | None = None
        self._groups = RowGroups()
        self._sizes, self._flags = array("Q"), bytearray()
        self._parts: list[PartIndex | None] = []
        self._finishing: deque[tuple[int, Future[PartIndex]]] = deque()
        """Parts that are being finished, with their places among all, oldest first."""
        self._threads = ThreadPoolExecutor(AT_ONCE, "parts")

    def start_part(self, part: int) -> None:
        """What comes now belongs to this part."""
        if part != self._part:
            self.finish()
            self._part = part

    def add(self, table: pa.Table) -> None:
        """Adds rows of output."""
        self._groups.add(table)
        self._write_groups(self._groups.whole())

    def add_lines(self, lines: bytes) -> None:
        """Adds rows of output that are lines already."""
        self._write_groups(self._groups.rest())
        self._open_part().append_lines(lines)

    def count(self, sizes: Sequence[int], flags: bytes) -> None:
        """These documents, with so many rows each, are in the part."""
        self._sizes.extend(sizes)
        self._flags.extend(flags)
        self.rows += sum(sizes)

    def keep_part(self, part: PartIndex) -> None:
        """The part at hand is this one, as it stands."""
        next(self._survey_rows)
        self._parts.append(part)

    def rewrite(self, schema: pa.Schema) -> None:
        """From now on, and in what is written of this part already, the columns are these."""
        self.schema = schema
        if self._file is not None:
            self._file.rewrite(schema)

    def finish(self) -> None:
        """The part at hand is complete; it becomes durable while others are made."""
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
        self._wait(AT_ONCE - 1)
        groups, file = list(self._groups.rest()), self._open_part()
        finish = partial(self._finish_file, file, groups, self.schema, rows, entries)
        self._finishing.append((len(self._parts), self._threads.submit(finish)))
        self._parts.append(None)
        self._file = None
        self._sizes, self._flags, self.rows = array("Q"), bytearray(), 0

    def finished(self) -> list[PartIndex]:
        """All parts so far, but the one at hand."""
        self._wait(0)
        return [part for part in self._parts if part is not None]

    def _wait(self, most: int) -> None:
        """Return when at most so many parts are still being finished."""
        while len(self._finishing) > most:
            at, coming = self._finishing.popleft()
            self._parts[at] = coming.result()

    def close(self) -> None:
        """Removes what is unfinished."""
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
