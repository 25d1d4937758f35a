"""Writes results to files: parts during the run, one rename at its end.

The output gets its name only once it is complete, and the same answers give the same bytes (see
`pipeline.parts.part_file`), whether a row's output is computed again or copied from an earlier
part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.cache.lookup import Outcomes
from pipeline.errors import GuardError
from pipeline.parts.index import FIRST, OUTCOMES, REUSABLE, PartIndex, read_index
from pipeline.parts.json_lines import PIECE_ROWS
from pipeline.parts.layout import OutputLayout
from pipeline.parts.nul import without_nul
from pipeline.parts.part_rows import PartRows, part_errors, row_count
from pipeline.parts.reuse import OPEN_PARTS, CopiedRows, Reuse, readable
from pipeline.parts.schema import output_schema, row_weights, vector_array, with_vectors
from pipeline.parts.snapshot import Snapshot, SnapshotFile
from pipeline.parts.writer import PartsWriter
from pipeline.records import Column, Document, Result, Row, RowRef
from pipeline.sink.changes import CopiedChanges, deliver, write_changes
from pipeline.sink.commit import publish
from pipeline.source import identity
from pipeline.source.identity import digest_of
from pipeline.source.survey import Survey
from pipeline.text import shown

PIECE_BYTES = 2_000_000
WRITER_REVISION = 2
"""Incremented when the same rows give other bytes than before: every part is then rebuilt."""


class Counts(NamedTuple):
    """Documents by status, and rows written."""

    ok: int = 0
    partial: int = 0
    failed: int = 0
    rows: int = 0


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
        self.fingerprint = _fingerprint(fingerprint, survey, self.schema, self.layout.part_suffix)
        """Of everything that the bytes of a part depend on, except its rows and their answers."""
        self.snapshot: Snapshot | None = None
        """The last commit, when the run begins."""
        self._untyped = {c.name for c in columns if c.type == "vector" and not dimension}
        self._carried = set(survey.schema.names)
        if per_chunk:
            self._carried -= {spec.text} - {spec.id}
        self._batch: Any = None
        self._weights = np.zeros(0)
        self._reuse: Reuse | None = None
        self._former_names: set[str] = set()
        self._copies = CopiedChanges()
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
        self._clear()

    def use_plan(self, reuse: Reuse) -> None:
        """Announces copied rows of this plan. Where the job sets no dimension, theirs is used."""
        self._reuse = reuse
        self._former_names = {part.path.name for part in reuse.former}
        dimension = reuse.dimension
        if dimension is not None and self._untyped:
            self.schema = with_vectors(self.schema, dict.fromkeys(sorted(self._untyped), dimension))
            self._untyped.clear()
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
        for row in result.rows:
            self._add(document, result, row, rows, repeats)
            rows += 1
        if rows == 0:  # every input row is in every output
            self._add(document, result, Row((None,) * len(self._columns)), 0, repeats)
            rows = 1
        if rows > 1 and not self._per_chunk:
            raise ValueError(f"{document.address}: {rows} rows for one document")
        is_first = outcomes is None or outcomes.is_first
        flags = OUTCOMES.index(result.status) | (FIRST if is_first else 0)
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

    def refuse_empty_output(self) -> None:
        """Raises: GuardError where an output with rows would be replaced by one without results."""
        if self.counts.ok + self.counts.partial == 0 and any(
            map(row_count, self.layout.published())
        ):
            cause = "the input is empty" if not self._survey.rows else "every row failed"
            raise GuardError(
                f"{shown(str(self.layout.path))}: {cause}, and the output so far has rows",
                hint="it is unchanged; remove it to publish without them",
            )

    def commit(self, changes: Path | None = None) -> int:
        """Publishes all parts in one rename, unless they are published already. Then it writes the
        changes, with undelivered ones of earlier commits, to `changes`: a kill between the two
        loses none. Returns: rows written.

        Raises: StorageError; then the old output is unchanged. ValueError where documents are
        missing.
        """
        self._finish_part()
        written = self.counts.ok + self.counts.partial + self.counts.failed
        if written != self._survey.rows:
            raise ValueError(f"{written} documents written, {self._survey.rows} read")
        has_feed = changes is not None or self._record.undelivered_changes.exists()
        self.published = publish(
            self.layout,
            self._record,
            self.schema,
            self.parts,
            written=self._parts.written,
            fingerprint=self.fingerprint,
            before=self.snapshot,
            changes=self._write_changes if has_feed else None,
        )
        if changes is not None:
            deliver(self._record.undelivered_changes, changes)
        return self.counts.rows

    def _write_changes(self, target: Path, parts: Sequence[PartIndex]) -> None:
        # Also where the output was removed: a follower of the change feed still has its rows.
        indexes = read_index(self.layout.parts, self.layout.part_suffix)
        former = readable(indexes, self._record.last)
        write_changes(target, former, parts, self._copies, id=self._survey.spec.id or "id")

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
                own_values["chunk_id"].append(_chunk_id(document.identity, text, repeats))
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
                arrays.append(_take_column(self._row_refs, field.name))
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


def _chunk_id(name: bytes, text: str, repeats: dict[int, int]) -> str:
    raw = text.encode()
    # 64 bits suffice for counting: two texts that share them only skip a number.
    short = int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")
    occurrence = repeats.get(short, 0)
    repeats[short] = occurrence + 1
    return identity.chunk_id(name, raw, occurrence)


def _take_column(row_refs: Sequence[RowRef], name: str) -> pa.Array:
    """The kept column of these rows, of which neighbours share a batch; dictionaries decoded."""
    pieces, start = [], 0
    for at in range(1, len(row_refs) + 1):
        if at == len(row_refs) or row_refs[at].batch is not row_refs[start].batch:
            rows = pa.array([row_ref.row for row_ref in row_refs[start:at]], pa.int64())
            column = row_refs[start].batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            pieces.append(column.take(rows))
            start = at
    return pa.concat_arrays(pieces)
