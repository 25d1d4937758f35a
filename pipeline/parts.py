"""Files whose bytes depend on nothing but their rows.

The same rows written in other batches give other Parquet bytes, and a writer that is left by an
exception still leaves a valid footer. So rows are cut into row groups by their content alone, each
is written as one table of one chunk, and a file has its name only once it is whole and durable.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decimals import shortest
from pipeline.errors import StateError
from pipeline.files import reason, shown
from pipeline.place import storing, sync_folder
from pipeline.schema import python_values, row_weights

PIECE_ROWS = 256
GROUP_ROWS = 4_096
GROUP_BYTES = 32_000_000

INDEX_SUFFIX = ".index"
CAN_CUT_BY_CONTENT = int(pa.__version__.split(".")[0]) >= 21

_encoder = msgspec.json.Encoder()


def conformed(pieces: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The pieces as one table of one chunk: what its bytes in a file depend on, and no more."""
    arrays = []
    for field in schema:
        chunks = [chunk for piece in pieces for chunk in piece.column(field.name).chunks]
        if pa.types.is_fixed_size_list(field.type):  # before the first vector came: a list
            chunks = [
                chunk
                if pa.types.is_fixed_size_list(chunk.type)
                else pa.nulls(len(chunk), field.type)
                for chunk in chunks
            ]
        decoded = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in chunks]
        whole = pa.concat_arrays(decoded) if decoded else pa.nulls(0, field.type)
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(whole.type):
            whole = whole.dictionary_encode()
        arrays.append(whole if whole.type.equals(field.type) else whole.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


class RowGroups:
    """Cuts a stream of tables after 4,096 rows or 32 MB, by the rows' content alone."""

    def __init__(self) -> None:
        self._ready: list[list[pa.Table]] = []
        self._pieces: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, table: pa.Table) -> None:
        weights = sum((row_weights(column) for column in table.columns), np.zeros(len(table)))
        start = 0
        while start < len(table):
            heights = self._bytes + np.cumsum(weights[start:])
            full = int(np.searchsorted(heights, GROUP_BYTES)) + 1
            take = min(full, GROUP_ROWS - self._rows, len(table) - start)
            self._pieces.append(table.slice(start, take))
            self._rows += take
            self._bytes = int(heights[take - 1])
            if self._rows == GROUP_ROWS or self._bytes >= GROUP_BYTES:
                self._ready.extend(self.rest())
            start += take

    def whole(self) -> Iterator[list[pa.Table]]:
        """The row groups that are complete."""
        ready, self._ready = self._ready, []
        return iter(ready)

    def rest(self) -> Iterator[list[pa.Table]]:
        """What is left, at most one row group."""
        pieces, self._pieces = self._pieces, []
        self._rows = self._bytes = 0
        return iter([pieces] if pieces else [])


class PartFile:
    """A file that has its name only once it is whole and durable."""

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        temporary: Path | None = None,
        *,
        for_hub: bool = False,
    ) -> None:
        self.path = path
        self._for_hub = for_hub
        self.temporary = temporary or path.with_name(f"{path.name}.tmp")
        self._is_json = path.suffix.lower() == ".jsonl"
        self._open(self.temporary, schema)

    def write(self, group: pa.Table) -> None:
        with storing(self.path):
            if self._writer is None:
                for at in range(0, len(group), PIECE_ROWS):
                    self._stream.write(json_lines(group.slice(at, PIECE_ROWS)))
            else:
                self._writer.write_table(group, row_group_size=max(1, len(group)))

    def append(self, part: Path) -> None:
        """Adds a finished file of lines."""
        with storing(self.path), part.open("rb") as stream:
            shutil.copyfileobj(stream, self._stream, 1 << 20)

    def append_lines(self, lines: bytes) -> None:
        """Adds lines of a finished file."""
        with storing(self.path):
            self._stream.write(lines)

    def rewrite(self, schema: pa.Schema) -> None:
        """Begins anew with another schema, and takes over the row groups written so far."""
        if self._writer is None:
            return
        with storing(self.path):
            self._writer.close()
            self._stream.close()
            before = self.temporary.with_name(f"{self.temporary.name}.before.tmp")
            self.temporary.replace(before)
            self._open(self.temporary, schema)
            with pq.ParquetFile(before) as file:
                for index in range(file.num_row_groups):
                    group = file.read_row_group(index, use_threads=False)
                    self.write(conformed([group], schema))
            before.unlink()

    def finish(self, *, by_hash: bool = False) -> tuple[int, str]:
        """Durable under its own name, or under its hash. Returns: size in bytes, SHA-256."""
        size, digest = self.seal()
        if by_hash:
            self.path = self.path.with_name(f"{digest[:32]}{self.path.suffix}")
        self.publish()
        return size, digest

    def seal(self) -> tuple[int, str]:
        """Whole and durable, but not under its name yet. Returns: size in bytes, SHA-256."""
        try:
            with storing(self.path):
                if self._writer is not None:
                    self._writer.close()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                with self.temporary.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    return os.fstat(stream.fileno()).st_size, digest
        except BaseException:
            self.discard()
            raise

    def publish(self) -> None:
        """Gives the sealed file its name."""
        try:
            with storing(self.path):
                self.temporary.replace(self.path)
                sync_folder(self.path.parent)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Closes and removes it. pyarrow writes a footer even then: the name tells the truth."""
        with suppress(OSError, pa.ArrowException, ValueError):
            if self._writer is not None:
                self._writer.close()
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def _open(self, path: Path, schema: pa.Schema) -> None:
        with storing(path):
            self._stream = path.open("wb")
            self._writer = (
                None if self._is_json else _parquet_writer(self._stream, schema, self._for_hub)
            )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Reads a finished part. One that cannot be read is no part any more: without its index the
    next run makes it anew. Raises: StateError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            path.with_suffix(INDEX_SUFFIX).unlink(missing_ok=True)
        raise StateError(
            f"{shown(str(path))}: damaged ({reason(error)})",
            hint="run again: it is built anew, from answers that are kept",
        ) from error


class PartRows:
    """The rows of a finished part, by their numbers: cheap for runs that come in order.

    Cost: holds one row group, or for lines 8 bytes for each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_json = path.suffix == ".jsonl"
        self._file: Any = None
        self._starts = np.zeros(1, np.int64)
        self._at = -1
        self._group: pa.Table | None = None

    def tables(self, start: int, stop: int) -> Iterator[pa.Table]:
        """The rows from `start` to before `stop`, dictionaries decoded."""
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
                self._group = None  # never two at once
                self._group, self._at = _decoded(self._file.read_row_group(at)), at
            take = min(stop, int(self._starts[at + 1])) - start
            yield self._group.slice(start - int(self._starts[at]), take)
            start += take

    def lines(self, start: int, stop: int) -> Iterator[bytes]:
        """The lines from `start` to before `stop`, in pieces of at most 1 MB."""
        self._find_lines()
        self._file.seek(int(self._starts[start]))
        left = int(self._starts[stop] - self._starts[start])
        while left:
            piece = self._file.read(min(left, 1 << 20))
            left -= len(piece)
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
        """The rows as lines of JSON, whatever the part's format."""
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


def _decoded(table: pa.Table) -> pa.Table:
    """With the values of dictionaries in place of them, as rows come from the input."""
    for at, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kind = field.type.value_type
            table = table.set_column(at, field.with_type(kind), table.column(at).cast(kind))
    return table


def is_whole(path: Path, rows: int) -> bool:
    """Whether a finished part ends as it must and has so many rows, by a look at its end."""
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            if not rows or not file.seek(0, os.SEEK_END):
                return not rows and not file.tell()
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    try:
        return int(pq.read_metadata(path).num_rows) == rows
    except pa.ArrowException:
        return False


def rows_of(path: Path) -> int:
    """The rows of an output file; 1 where it cannot be told, so that nobody takes it for empty."""
    if path.suffix == ".jsonl":
        return int(path.stat().st_size > 0)
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 1


def _parquet_writer(stream: IO[bytes], schema: pa.Schema, for_hub: bool) -> pq.ParquetWriter:
    """For the Hub pages are cut by content, so that an upload sends only what changed."""
    by_content: dict[str, Any] = {"use_content_defined_chunking": True}
    few = ("section", "_status", "_error", "_model")
    return pq.ParquetWriter(
        stream,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in schema.names if name in few],
        write_page_checksum=True,
        **(by_content if for_hub and CAN_CUT_BY_CONTENT else {}),
    )


def json_lines(table: pa.Table) -> bytes:
    """The rows as lines of JSON: vectors as shortest decimals, clocks as ISO 8601, decimals as
    strings, bytes in base64; NaN, which JSON has not, as null."""
    columns = []
    for column in table.columns:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        is_vector = pa.types.is_fixed_size_list(array.type) and pa.types.is_float32(
            array.type.value_type
        )
        columns.append(_vectors(array) if is_vector else python_values(array))
    names = table.schema.names
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return _encoder.encode_lines(rows)


def _vectors(array: pa.FixedSizeListArray) -> list[list[float] | None]:
    """Python floats whose shortest decimals are those of the float32 values."""
    flat = array.flatten()  # of the vectors that are not null
    numbers = iter(shortest(flat.to_numpy(zero_copy_only=False)).tolist())
    size = array.type.list_size
    return [
        list(islice(numbers, size)) if valid else None for valid in array.is_valid().to_pylist()
    ]
