"""Writes results to files: parts during the run, one rename at its end.

The output gets its name only once it is complete, and the same answers give the same bytes (see
`pipeline.parts.part_file`), whether a row's output is computed again or copied from an earlier
part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.cache.lookup import Outcomes
from pipeline.parts.index import FIRST, ISOLATED, OUTCOMES, REUSABLE, PartIndex
from pipeline.parts.json_lines import PIECE_ROWS
from pipeline.parts.layout import OutputLayout
from pipeline.parts.nul import without_nul
from pipeline.parts.part_rows import PartRows, is_blank, part_errors
from pipeline.parts.reuse import OPEN_PARTS, CopiedRows, Reuse
from pipeline.parts.schema import (
    dimension_of,
    output_schema,
    row_weights,
    vector_array,
    with_vectors,
)
from pipeline.parts.snapshot import Snapshot, SnapshotFile
from pipeline.parts.writer import PartsWriter
from pipeline.records import Column, Document, Result, Row, RowRef
from pipeline.sink.changes import (
    CopiedChanges,
    Former,
    deliver,
    former_rows,
    write_changes,
)
from pipeline.sink.commit import publish
from pipeline.sink.counts import Counts
from pipeline.sink.row_values import chunk_id_of, take_column
from pipeline.source.identity import digest_of
from pipeline.source.survey import Survey

PIECE_BYTES = 2_000_000
WRITER_REVISION = 2
"""Incremented when the same rows give other bytes than before: every part is then rebuilt."""


class Sink:
    """Takes documents and results in input order; `commit` publishes them.

    Invariant: until `commit` renames, the old output is unchanged; bytes depend on the rows, not on
        their timing.
    Raises: UsageError, StorageError for an output that cannot be written, before it writes any.
    Cost: memory for one row group (4,096 rows or 32 MB), also for a document of 10^6 chunks, of
    which it keeps 8 bytes of hash each.
    """

    def __init__(
        self,
        *,
        output: str,
        run_id: str,
        survey: Survey,
        columns: Sequence[Column],
        per_chunk: bool,
        metadata: Mapping[str, str] | None = None,
        dimension: int | None = None,
        fingerprint: str = "",
        changes: Path | None = None,
        answered_only: bool = False,
        replaces_nul: bool = False,
    ) -> None:
        spec = survey.spec
        self.counts = Counts()
        self.schema = output_schema(
            survey.schema,
            columns,
            per_chunk=per_chunk,
            id=spec.id,
            text=spec.text,
            dimension=dimension,
            metadata=metadata,
        )
        self._survey, self._columns, self._per_chunk = survey, columns, per_chunk
        self._replaces_nul = replaces_nul
        self.layout = OutputLayout(output, run_id)
        self._answered_only = answered_only
        self.fingerprint = _fingerprint(
            f"{fingerprint} answered" if answered_only else fingerprint,
            survey,
            self.schema,
            self.layout.part_suffix,
        )
        """Of everything that the bytes of a part depend on, except its rows and their answers."""
        self.snapshot: Snapshot | None = None
        """The last commit, when the run begins."""
        self._untyped = {c.name for c in columns if c.type == "vector" and not dimension}
        self._inherited: list[str] = []
        """Vector columns whose dimension is that of the last commit."""
        self._has_vectors = False
        self._carried = set(survey.schema.names)
        if per_chunk:
            self._carried -= {spec.text} - {spec.id}
        self._batch: Any = None
        self._weights = np.zeros(0)
        self._reuse: Reuse | None = None
        self._former_names: set[str] = set()
        self._changes, self._copies = changes, CopiedChanges()
        self._former = Former(())
        self._readers: dict[Path, PartRows] = {}
        self._part = -1
        self.published: list[PartIndex] = []
        """The parts of the output, once published."""
        self._parts = PartsWriter(self.layout, survey, self.fingerprint, self.schema)
        self._own_values: dict[str, list[Any]] = {}
        self._row_refs: list[RowRef] = []
        self._pending_bytes = 0
        self.layout.prepare(spec.path, [file.path for file in survey.files])
        self._record = SnapshotFile(self.layout)
        self.snapshot = self._record.read()
        self.has_changes = changes is not None or self._record.undelivered_changes.exists()
        """Whether the commit is compared with the last one, row by row."""
        self.fault = self._record.fault
        """Why there is an output and no snapshot of it, when the run begins."""
        self._clear()

    def use_plan(self, reuse: Reuse) -> None:
        """Announces copied rows of this plan. Where the job sets no dimension, theirs is used."""
        self._reuse = reuse
        self._former_names = {part.path.name for part in reuse.former}
        dimension = reuse.dimension
        if dimension is not None and self._untyped:
            self.schema = with_vectors(self.schema, dict.fromkeys(sorted(self._untyped), dimension))
            self._inherited, self._untyped = sorted(self._untyped), set()
            self._parts.schema = self.schema

    @property
    def parts(self) -> list[PartIndex]:
        """The finished parts, in order."""
        return self._parts.finished()

    def write(self, document: Document, result: Result, outcomes: Outcomes | None = None) -> None:
        """Adds one document. Its rows are read one by one and never held together.

        Once all rows are read, its outcomes show whether a later run may copy them.
        """
        self._start_part(document.part)
        rows = 0
        repeats: dict[int, int] = {}
        for at, row in enumerate(result.rows):
            if not self._answered_only or any(value is not None for value in row.values):
                self._add(document, result, row, at, repeats)
                rows += 1
        if rows == 0 and not self._answered_only:
            self._add(document, result, Row((None,) * len(self._columns)), 0, repeats)
            rows = 1
        if rows > 1 and not self._per_chunk:
            raise ValueError(f"{document.address}: {rows} rows for one document")
        is_first = outcomes is None or outcomes.is_first
        flags = OUTCOMES.index(result.status) | (FIRST if is_first else 0)
        flags |= ISOLATED if document.error is not None else 0
        self._parts.count([rows], bytes([flags]))
        count = {result.status: getattr(self.counts, result.status) + 1}
        self.counts = self.counts._replace(rows=self.counts.rows + rows, **count)

    def copy(self, copied: CopiedRows) -> None:
        """Adds documents whose output exists: a whole part, or rows of one."""
        self._start_part(copied.part)
        self.counts = self.counts._replace(
            ok=self.counts.ok + copied.documents, rows=self.counts.rows + copied.rows
        )
        if copied.entries is None or copied.starts is None:
            self._parts.keep_part(copied.source)
            return
        sizes = copied.entries["rows"]
        is_former = copied.source.path.name in self._former_names
        ends = copied.starts + sizes.astype(np.int64)
        jumps = np.flatnonzero(copied.starts[1:] != ends[:-1]) + 1
        self._flush()
        at = self._parts.rows
        for run in np.split(np.arange(len(sizes)), jumps):
            start, stop = int(copied.starts[run[0]]), int(ends[run[-1]])
            self._copy_rows(copied.source.path, start, stop)
            if is_former:
                self._copies.add(copied.source.path.name, copied.part, start, stop, at)
            at += stop - start
        self._parts.count(sizes.tolist(), bytes([REUSABLE]) * len(sizes))

    def _copy_rows(self, path: Path, start: int, stop: int) -> None:
        if path not in self._readers:
            while len(self._readers) >= OPEN_PARTS:
                self._readers.pop(next(iter(self._readers))).close()
            self._readers[path] = PartRows(path)
        rows = self._readers[path]
        with part_errors(path):
            if self.layout.suffix == ".jsonl":
                for lines in rows.lines(start, stop):
                    self._parts.add_lines(lines)
                return
            for table in rows.tables(start, stop):
                self._parts.add(table)

    def commit(self) -> int:
        """Publishes all parts in one rename, unless they are published already. Then it writes the
        changes, with undelivered ones of earlier commits, to their file: a kill between the two
        loses none. Returns: rows written.

        Raises: StorageError; then the old output is unchanged. ValueError where documents are
        missing.
        """
        self._finish_part()
        written = self.counts.ok + self.counts.partial + self.counts.failed
        if written != self._survey.rows:
            raise ValueError(f"{written} documents written, {self._survey.rows} read")
        self.published = publish(
            self.layout,
            self._record,
            self.schema,
            self.parts,
            written=self._parts.written,
            fingerprint=self.fingerprint,
            before=self.snapshot,
            changes=self._write_changes if self.has_changes else None,
        )
        if self._changes is not None:
            deliver(self._record.undelivered_changes, self._changes)
        return self.counts.rows

    def find_former(self, reuse: Reuse, *, accept_unknown: bool) -> None:
        """Finds the rows that the changes of this commit are compared with, if any are written.

        Raises: GuardError where they are unknown, unless that is accepted.
        """
        if self.has_changes:
            self._former = former_rows(
                self._record,
                self.layout,
                self._survey,
                reuse.published,
                accept_unknown=accept_unknown,
            )

    def became_blank(self) -> bool:
        """Whether the published table has no vector any more, and keeps the columns of the one
        before. Blocks: reads the footers of its parts."""
        if not self._inherited or self._has_vectors or not self._parts.written:
            return False
        paths = [part.path for part in self.published if part.path.suffix == ".parquet"]
        return bool(paths) and all(is_blank(p, name) for p in paths for name in self._inherited)

    def sweep(self, reuse: Reuse) -> None:
        """Removes parts that neither the last commit nor this run needs: otherwise, runs that never
        commit would leave theirs for ever."""
        last = self._record.last
        names = reuse.used | {part.name for part in (last.parts if last else ())}
        self.layout.sweep({Path(name).stem for name in names})

    def _write_changes(self, target: Path, parts: Sequence[PartIndex]) -> None:
        write_changes(target, self._former, parts, self._copies, id=self._survey.spec.id or "id")

    @property
    def dimension(self) -> int | None:
        """The dimension of the vectors, if there are any."""
        return dimension_of(self.schema)

    def close(self) -> None:
        """Removes unfinished files; after `commit` there are none."""
        self._parts.close()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._clear()
        self.layout.clean()

    def _add(
        self, document: Document, result: Result, row: Row, at: int, repeats: dict[int, int]
    ) -> None:
        own_values, chunk = self._own_values, row.chunk
        error = row.error
        if chunk is None or not self._per_chunk:
            error = error or result.error or document.error
        size = 0
        if self._survey.spec.id is None:
            own_values["id"].append(document.id)
        if self._per_chunk:
            text = None
            if chunk is None:
                for name in ("chunk_id", "chunk", "start_char", "end_char", "tokens", "section"):
                    own_values[name].append(None)
            else:
                assert document.text is not None
                text = document.text[chunk.start_char : chunk.end_char]
                size = len(text)
                own_values["chunk_id"].append(chunk_id_of(document.identity, text, repeats))
                own_values["chunk"].append(at)
                own_values["start_char"].append(chunk.start_char)
                own_values["end_char"].append(chunk.end_char)
                own_values["tokens"].append(chunk.tokens)
                own_values["section"].append(chunk.section)
            own_values["text"].append(text)
            status = result.status if chunk is None else "failed" if row.error else "ok"
            own_values["_status"].append(status)
        else:
            size = len(document.text or "")
            own_values["_status"].append(result.status)
            own_values["_truncated"].append(result.truncated)
            own_values["_chunks"].append(result.chunks)
            own_values["_tokens"].append(result.tokens)
            own_values["_model"].append(result.model)
        own_values["_error"].append(error)
        for column, value in zip(self._columns, row.values, strict=True):
            own_values[column.name].append(value)
            size += len(value) if value is not None else 0
            self._has_vectors |= column.type == "vector" and value is not None
            if column.name in self._untyped and value is not None:
                self._set_dimension(column.name, len(value) // 4)
        batch, index = document.row_ref
        if batch is not self._batch:
            self._batch, self._weights = batch, np.zeros(0)
            for name in self._carried:
                weights = row_weights(batch.column(name))
                self._weights = self._weights + weights if len(self._weights) else weights
        size += int(self._weights[index]) if self._carried else 0
        self._row_refs.append(document.row_ref)
        self._pending_bytes += size
        if len(self._row_refs) >= PIECE_ROWS or self._pending_bytes >= PIECE_BYTES:
            self._flush()

    def _set_dimension(self, name: str, dimension: int) -> None:
        """Sets the dimension at the first vector, also in rows that were already written."""
        self._untyped.discard(name)
        self.schema = with_vectors(self.schema, {name: dimension})
        self._parts.rewrite(self.schema)

    def _flush(self) -> None:
        """Converts the pending rows to Arrow and passes them to the parts writer."""
        if not self._row_refs:
            return
        vectors = {column.name for column in self._columns if column.type == "vector"}
        arrays = []
        for field in self.schema:
            if field.name not in self._own_values:
                arrays.append(take_column(self._row_refs, field.name))
            elif field.name in vectors:
                arrays.append(vector_array(self._own_values[field.name], field.type))
            else:
                arrays.append(pa.array(self._own_values[field.name], field.type))
        self._clear()
        table = pa.Table.from_arrays(arrays, self.schema.names)
        self._parts.add(without_nul(table) if self._replaces_nul else table)

    def _start_part(self, part: int) -> None:
        if part != self._part:
            self._finish_part()
            self._part = part
            self._parts.start_part(part)

    def _finish_part(self) -> None:
        self._flush()
        self._parts.finish()

    def _clear(self) -> None:
        self._own_values = {name: [] for name in self.schema.names if name not in self._carried}
        self._row_refs = []
        self._pending_bytes = 0


def _fingerprint(job: str, survey: Survey, schema: pa.Schema, suffix: str) -> str:
    """The fingerprint of the job, the input and output columns, and the writer."""
    spec = survey.spec
    columns = schema.serialize().to_pybytes()
    writer = [WRITER_REVISION, pa.__version__, suffix, job, columns]
    used = [spec.text, spec.id, spec.keep, spec.fields, sorted(survey.widened)]
    return digest_of(map(repr, [*writer, *used]))
