"""Files whose bytes depend only on their rows.

The same rows written in other batches give other Parquet bytes, and a writer closed by an exception
still writes a valid footer. So rows are cut into row groups by their content alone, each is written
as one table of one chunk, and a file gets its name only once it is complete and durable.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.disk.durable import rename, storage_errors, temporary_path
from pipeline.disk.output_path import output_suffix
from pipeline.parts.json_lines import PIECE_ROWS, json_lines
from pipeline.parts.schema import row_weights

GROUP_ROWS = 4_096
GROUP_BYTES = 32_000_000
CAN_CUT_BY_CONTENT = int(pa.__version__.split(".")[0]) >= 21


def conform(pieces: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """The pieces as one table of one chunk, so that its bytes in a file depend only on the rows."""
    arrays = []
    for field in schema:
        chunks = [chunk for piece in pieces for chunk in piece.column(field.name).chunks]
        if pa.types.is_fixed_size_list(field.type):  # before the first vector the type is a list
            chunks = [
                chunk
                if pa.types.is_fixed_size_list(chunk.type)
                else pa.nulls(len(chunk), field.type)
                for chunk in chunks
            ]
        decoded = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in chunks]
        array = pa.concat_arrays(decoded) if decoded else pa.nulls(0, field.type)
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        arrays.append(array if array.type.equals(field.type) else array.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


class RowGroups:
    """Cuts a stream of tables into row groups of 4,096 rows or 32 MB, by the rows' content
    alone."""

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
                self._ready.extend(self.remaining())
            start += take

    def complete(self) -> Iterator[list[pa.Table]]:
        """The complete row groups; each is returned once."""
        ready, self._ready = self._ready, []
        return iter(ready)

    def remaining(self) -> Iterator[list[pa.Table]]:
        """The remaining rows, at most one row group."""
        pieces, self._pieces = self._pieces, []
        self._rows = self._bytes = 0
        return iter([pieces] if pieces else [])


class PartFile:
    """A file that gets its name only once it is complete and durable."""

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
        self.temporary = temporary or temporary_path(path)
        self._is_json = output_suffix(path) == ".jsonl"
        self._open(self.temporary, schema)

    def write(self, group: pa.Table) -> None:
        with storage_errors(self.path):
            if self._writer is None:
                for at in range(0, len(group), PIECE_ROWS):
                    self._stream.write(json_lines(group.slice(at, PIECE_ROWS)))
            else:
                self._writer.write_table(group, row_group_size=max(1, len(group)))

    def append(self, part: Path) -> None:
        """Adds a finished file of lines."""
        with storage_errors(self.path), part.open("rb") as stream:
            shutil.copyfileobj(stream, self._stream, 1 << 20)

    def append_lines(self, lines: bytes) -> None:
        """Adds lines from a finished file."""
        with storage_errors(self.path):
            self._stream.write(lines)

    def rewrite(self, schema: pa.Schema) -> None:
        """Starts the file again with another schema, and copies the row groups written so far."""
        if self._writer is None:
            return
        with storage_errors(self.path):
            self._writer.close()
            self._stream.close()
            previous = self.temporary.with_name(f"{self.temporary.name}.before.tmp")
            self.temporary.replace(previous)
            self._open(self.temporary, schema)
            with pq.ParquetFile(previous) as file:
                for index in range(file.num_row_groups):
                    group = file.read_row_group(index, use_threads=False)
                    self.write(conform([group], schema))
            previous.unlink()

    def finish(self, *, by_hash: bool = False) -> tuple[int, str]:
        """Makes the file durable under its name, or its hash. Returns: size in bytes, SHA-256."""
        size, digest = self.seal()
        if by_hash:
            self.path = self.path.with_name(f"{digest[:32]}{self.path.suffix}")
        self.publish()
        return size, digest

    def seal(self) -> tuple[int, str]:
        """Makes the file complete and durable, not under its name yet. Returns: size in bytes,
        SHA-256."""
        try:
            with storage_errors(self.path):
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
            with storage_errors(self.path):
                rename(self.temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Closes and removes the file. pyarrow writes a footer even then, so only the name shows
        that a file is complete."""
        with suppress(OSError, pa.ArrowException, ValueError):
            if self._writer is not None:
                self._writer.close()
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    def _open(self, path: Path, schema: pa.Schema) -> None:
        with storage_errors(path):
            self._stream = path.open("wb")
            self._writer = (
                None if self._is_json else _parquet_writer(self._stream, schema, self._for_hub)
            )


def _parquet_writer(stream: IO[bytes], schema: pa.Schema, for_hub: bool) -> pq.ParquetWriter:
    """The writer of a file. For the Hub it cuts pages by content, so that an upload sends only what
    changed."""
    by_content: dict[str, Any] = {"use_content_defined_chunking": True}
    repetitive = ("section", "_status", "_error", "_model")
    return pq.ParquetWriter(
        stream,
        schema,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in schema.names if name in repetitive],
        write_page_checksum=True,
        **(by_content if for_hub and CAN_CUT_BY_CONTENT else {}),
    )
