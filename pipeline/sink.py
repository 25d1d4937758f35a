"""Results into files: parts while the run goes on, one rename at its end.

Nothing stands under the output's name before it is complete, and the same answers give the same
bytes (see `pipeline.parts`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import identity
from pipeline.errors import GuardError, StorageError
from pipeline.files import shown
from pipeline.parts import PIECE_ROWS, PartFile, RowGroups, conformed, rows_of
from pipeline.place import Place, storing
from pipeline.records import Column, Document, Kept, Result, Row
from pipeline.schema import output_schema, row_weights, vector_array, with_vectors
from pipeline.survey import Survey

PIECE_BYTES = 2_000_000


class Counts(NamedTuple):
    """Documents by status, and rows written."""

    ok: int = 0
    partial: int = 0
    failed: int = 0
    rows: int = 0


class Part(NamedTuple):
    """A finished part."""

    path: Path
    documents: int
    rows: int
    size_bytes: int
    sha256: str


class Sink:
    """Takes documents and results in input order; `commit` publishes them.

    Invariant: until `commit` returns the old output stands; bytes depend on rows, not on arrival.
    Raises: UsageError, StorageError for an output that cannot be written, before anything is.
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
    ) -> None:
        spec = survey.spec
        self.counts = Counts()
        self.parts: list[Part] = []
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
        self._place = Place(output, run_id)
        self._unknown = {each.name for each in columns if each.type == "vector" and not dimension}
        self._carried = set(survey.schema.names)
        if per_chunk:
            self._carried -= {spec.text} - {spec.id}
        self._batch: Any = None
        self._weights = np.zeros(0)
        self._part = -1
        self._part_documents = self._part_rows = 0
        self._file: PartFile | None = None
        self._groups = RowGroups()
        self._own: dict[str, list[Any]] = {}
        self._kept: list[Kept] = []
        self._pending_bytes = 0
        self._place.prepare(spec.path, [file.path for file in survey.files])
        self._clear()

    def write(self, document: Document, result: Result) -> None:
        """Adds one document. Its rows are taken one by one and never held together."""
        if document.part != self._part:
            self._finish_part()
            self._part = document.part
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
        self._part_documents += 1
        self._part_rows += rows
        count = {result.status: getattr(self.counts, result.status) + 1}
        self.counts = self.counts._replace(rows=self.counts.rows + rows, **count)

    def check_loss(self) -> None:
        """Raises: GuardError where an output with rows would be replaced by one without results."""
        if self.counts.ok + self.counts.partial == 0 and any(map(rows_of, self._place.published())):
            what = "the input is empty" if not self._survey.rows else "every row failed"
            raise GuardError(
                f"{shown(str(self._place.path))}: {what}, and the output so far has rows",
                hint="it stands as it was; remove it to publish without them",
            )

    def commit(self) -> int:
        """Publishes all that was written, in one rename. Returns: rows written.

        Raises: StorageError; then the old output stands. ValueError where documents are missing.
        """
        self._finish_part()
        done = self.counts.ok + self.counts.partial + self.counts.failed
        if done != self._survey.rows:
            raise ValueError(f"{done} documents written, {self._survey.rows} read")
        self._publish()
        return self.counts.rows

    def close(self) -> None:
        """Removes what is unfinished; after `commit` there is nothing left to remove."""
        file, self._file = self._file, None
        if file is not None:
            file.discard()
        self._clear()
        self._place.clean()

    def _add(
        self, document: Document, result: Result, row: Row, at: int, repeats: dict[int, int]
    ) -> None:
        own, chunk = self._own, row.chunk
        error = row.error
        if chunk is None or not self._per_chunk:
            error = error or result.error or document.error
        size = 0
        if self._survey.spec.id is None:
            own["id"].append(document.id)
        if self._per_chunk:
            text = None
            if chunk is None:
                for name in ("chunk_id", "chunk", "start_char", "end_char", "tokens", "section"):
                    own[name].append(None)
            else:
                assert document.text is not None
                text = document.text[chunk.start_char : chunk.end_char]
                size = len(text)
                own["chunk_id"].append(_chunk_id(document.identity, text, repeats))
                own["chunk"].append(at)
                own["start_char"].append(chunk.start_char)
                own["end_char"].append(chunk.end_char)
                own["tokens"].append(chunk.tokens)
                own["section"].append(chunk.section)
            own["text"].append(text)
            status = result.status if chunk is None else "failed" if row.error else "ok"
            own["_status"].append(status)
        else:
            size = len(document.text or "")
            own["_status"].append(result.status)
            own["_truncated"].append(result.truncated)
            own["_chunks"].append(result.chunks)
            own["_tokens"].append(result.tokens)
            own["_model"].append(result.model)
        own["_error"].append(error)
        for column, value in zip(self._columns, row.values, strict=True):
            own[column.name].append(value)
            size += len(value) if value is not None else 0
            if column.name in self._unknown and value is not None:
                self._learn(column.name, len(value) // 4)
        batch, index = document.kept
        if batch is not self._batch:
            self._batch, self._weights = batch, np.zeros(0)
            for name in self._carried:
                weights = row_weights(batch.column(name))
                self._weights = self._weights + weights if len(self._weights) else weights
        size += int(self._weights[index]) if self._carried else 0
        self._kept.append(document.kept)
        self._pending_bytes += size
        if len(self._kept) >= PIECE_ROWS or self._pending_bytes >= PIECE_BYTES:
            self._flush()

    def _learn(self, name: str, dimension: int) -> None:
        """The first vector came: from now on, and in what is written already, the type is known."""
        self._unknown.discard(name)
        self.schema = with_vectors(self.schema, {name: dimension})
        if self._file is not None:
            self._file.rewrite(self.schema)

    def _flush(self) -> None:
        """Turns the rows so far into Arrow; whole row groups go to the file."""
        if not self._kept:
            return
        vectors = {each.name for each in self._columns if each.type == "vector"}
        arrays = []
        for field in self.schema:
            if field.name not in self._own:
                arrays.append(_taken(self._kept, field.name))
            elif field.name in vectors:
                arrays.append(vector_array(self._own[field.name], field.type))
            else:
                arrays.append(pa.array(self._own[field.name], field.type))
        self._clear()
        self._groups.add(pa.Table.from_arrays(arrays, self.schema.names))
        self._write(self._groups.whole())

    def _write(self, groups: Iterator[list[pa.Table]]) -> None:
        for pieces in groups:
            if self._file is None:
                self._file = PartFile(self._place.part_path(self._part), self.schema)
            self._file.write(conformed(pieces, self.schema))

    def _finish_part(self) -> None:
        self._flush()
        self._write(self._groups.rest())
        file, self._file = self._file, None
        if file is not None:
            size, digest = file.finish()
            part = Part(file.path, self._part_documents, self._part_rows, size, digest)
            self.parts.append(part)
        self._part_documents = self._part_rows = 0

    def _publish(self) -> None:
        place = self._place
        for part in self.parts:
            with storing(part.path), part.path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != part.sha256:
                    raise StorageError(f"{shown(str(part.path))}: damaged since it was written")
        if place.suffix == "":
            with storing(place.version):
                shutil.rmtree(place.version, ignore_errors=True)
                place.version.mkdir()
            for number, part in enumerate(self.parts):
                target = place.version / f"part-{number:05d}.parquet"
                with storing(part.path):
                    whole = pq.read_schema(part.path).equals(self.schema)
                if whole:
                    place.link_part(part.path, target)
                else:  # it was finished before the first vector came
                    self._assemble([part], target)
            if not self.parts:
                self._assemble([], place.version / "part-00000.parquet")
            place.switch()
        else:
            self._assemble(self.parts, place.path, place.temporary)
        place.clean()

    def _assemble(self, parts: Sequence[Part], target: Path, temporary: Path | None = None) -> None:
        """One file of these parts, in row groups that do not know of parts."""
        file = PartFile(target, self.schema, temporary)
        try:
            if self._place.suffix == ".jsonl":
                for part in parts:
                    file.append(part.path)
            else:
                for pieces in _regrouped(parts):
                    file.write(conformed(pieces, self.schema))
            file.finish()
        except BaseException:
            file.discard()
            raise

    def _clear(self) -> None:
        self._own = {name: [] for name in self.schema.names if name not in self._carried}
        self._kept = []
        self._pending_bytes = 0


def _regrouped(parts: Sequence[Part]) -> Iterator[list[pa.Table]]:
    groups = RowGroups()
    for part in parts:
        with storing(part.path), pq.ParquetFile(part.path) as file:
            for index in range(file.num_row_groups):
                groups.add(file.read_row_group(index, use_threads=False))
                yield from groups.whole()
    yield from groups.rest()


def _chunk_id(name: bytes, text: str, repeats: dict[int, int]) -> str:
    raw = text.encode()
    # 64 bits do for counting: two texts that share them only skip a number.
    short = int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")
    occurrence = repeats.get(short, 0)
    repeats[short] = occurrence + 1
    return identity.chunk_id(name, raw, occurrence)


def _taken(kept: Sequence[Kept], name: str) -> pa.Array:
    """The kept column of these rows, which come in runs of one batch; dictionaries decoded."""
    pieces, start = [], 0
    for at in range(1, len(kept) + 1):
        if at == len(kept) or kept[at].batch is not kept[start].batch:
            rows = pa.array([each.row for each in kept[start:at]], pa.int64())
            column = kept[start].batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            pieces.append(column.take(rows))
            start = at
    return pa.concat_arrays(pieces)
