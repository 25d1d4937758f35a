"""Rows of Parquet files, by row groups; kept columns remain Arrow arrays throughout.

pyarrow's dataset scanner needs 1 to 2.5 GB for a file that `iter_batches` reads in 170 MB. Where a
page is damaged, the file is rejected, or with `input.salvage` the rows from there to the end of
its row group are isolated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.source import identity
from pipeline.source.blocks import BATCH_BYTES, BATCH_ROWS, Block, RowSelection, drain
from pipeline.source.diagnosis import HEAD_BYTES, diagnose_parquet
from pipeline.source.files import (
    InputFile,
    InputSpec,
    unchanged,
    unreadable,
)
from pipeline.source.stores.table import store_of
from pipeline.source.types.plain import plain_batch, plain_schema
from pipeline.source.types.values import identity_values, is_text
from pipeline.source.types.wide import with_wide_columns_as_bytes
from pipeline.text import inflect, many, reason

UNREADABLE = identity.of_bytes(sha256(b"a row in a damaged part of a Parquet file").digest())
"""The content hash of rows without values; occurrences distinguish them."""


class OpenParquet(pq.ParquetFile):  # type: ignore[misc]
    """An open Parquet file."""

    unread: Mapping[str, str] = {}
    """The types of columns that are no Arrow types; their values come as bytes."""


def open_parquet(file: InputFile) -> OpenParquet:
    """The open file, its footer read. Raises: InputError for an incomplete footer."""
    try:
        try:
            return _opened(file, store_of(file.path).seekable(file.path))
        except pa.ArrowNotImplementedError:
            found = with_wide_columns_as_bytes(store_of(file.path).raw_file(file.path))
            if found is None:
                raise
            parquet = _opened(file, found.stream)
            parquet.unread = found.types
            return parquet
    except (pa.ArrowException, OSError) as error:
        problem = unreadable(file, error)
        if not isinstance(problem, InputError):
            raise problem from None
        if isinstance(error, pa.ArrowNotImplementedError):
            fault: str | None = f"a column has a type that cannot be read ({reason(error)})"
        else:
            with unchanged(file) as stream:
                fault = diagnose_parquet(stream.read(HEAD_BYTES))
        fault = fault or f"not a whole Parquet file ({reason(error)})"
        raise InputError(f"{file.name}: {fault}") from None


def _opened(file: InputFile, source: Any) -> OpenParquet:
    return OpenParquet(
        source,
        buffer_size=store_of(file.path).READ_AHEAD_BYTES,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def file_schema(file: InputFile, parquet: pq.ParquetFile) -> pa.Schema:
    """The columns of a file in their plain types, and those of its partition."""
    schema = plain_schema(parquet.schema_arrow)
    for name, _ in file.partition:
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.string()))
    return schema


def parquet_blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    columns: Sequence[str] | None,
    selection: RowSelection | None,
) -> Iterator[Block]:
    """All rows of all files, or only those of `selection`; of each row these columns."""
    for file in files:
        if selection is not None and selection.is_done:
            return
        with unchanged(file), open_parquet(file) as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if selection is None or not selection.skip_rows(rows):
                    # A row without a readable id is identified by all its values, read only then.
                    hashes = _row_hashes(file, parquet, group, spec)
                    builder = _BlockBuilder(spec, file, first, selection, enumerate(hashes, first))
                    batches = _read_group(file, parquet, group, columns, spec)
                    yield from filter(None, map(builder.block, batches))
                first += rows


class _BlockBuilder:
    """Hashes the rows of a row group, batch by batch. Units: `first` and `contents` count rows of
    the file."""

    def __init__(
        self,
        spec: InputSpec,
        file: InputFile,
        first: int,
        selection: RowSelection | None,
        contents: Iterator[tuple[int, bytes]],
    ) -> None:
        self._spec, self._file, self._selection, self._contents = spec, file, selection, contents
        self._next = first

    def block(self, damaged_batch: tuple[pa.RecordBatch, str | None]) -> Block | None:
        """The block of a batch and its damage, if any; None where no row of it is selected."""
        batch, damage = damaged_batch
        numbers: Sequence[int] = range(self._next, self._next + len(batch))
        self._next += len(batch)
        if self._selection is not None:
            at = [n for n in range(len(batch)) if self._selection.take_row()]
            if not at:
                return None
            batch, numbers = batch.take(pa.array(at, pa.int64())), [numbers[n] for n in at]
        name = self._spec.id
        place = f"{self._file.name}: row "
        block = Block(self._file, numbers, [], [], [], [], batch, place)
        hashes = _content_hashes(batch) if name is None else iter(())
        for number, value, problem in zip(numbers, *_parquet_ids(batch, name), strict=True):
            if name is None:
                hashed = UNREADABLE if damage else next(hashes)
            elif problem is None:
                hashed = identity.of_id(value)
            else:
                hashed = next(content for n, content in self._contents if n == number)
            block.hashes.append(hashed)
            block.unique.append(name is not None and problem is None)
            block.ids.append(value)
            block.errors.append(damage or problem)
        return block


def _read_group(
    file: InputFile,
    parquet: pq.ParquetFile,
    group: int,
    columns: Sequence[str] | None,
    spec: InputSpec,
) -> Iterator[tuple[pa.RecordBatch, str | None]]:
    """The row group in batches of about 8 MB, each with its damage, if any. When salvaging, the
    batches after a damaged page hold only ids. Raises: InputError, naming the row group.

    A reader cannot continue after a damaged page, so the damage extends to the end of the row
    group; ids are read separately, until a page of their own column is damaged.
    """
    done, rows = 0, parquet.metadata.row_group(group).num_rows

    def counted(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, None]:
        nonlocal done
        done += len(batch)
        return batch, None

    try:
        yield from map(counted, _batches(file, parquet, group, columns))
        return
    except InputError as error:
        if not spec.salvage:
            raise
        problem = reason(error.__cause__ or error)
    damage = f"row group {group} is damaged ({problem})"
    schema = file_schema(file, parquet)
    names = schema.names if columns is None else [n for n in schema.names if n in columns]
    ids = _ids_from(file, parquet, group, spec.id, done) if spec.id else iter(())
    while done < rows:
        id_column = next(ids, None)
        count = len(id_column) if id_column is not None else min(BATCH_ROWS, rows - done)
        arrays = [
            id_column
            if id_column is not None and name == spec.id
            else _nulls(count, schema.field(name))
            for name in names
        ]
        done += count
        yield pa.RecordBatch.from_arrays(arrays, names), damage


def _ids_from(
    file: InputFile, parquet: pq.ParquetFile, group: int, name: str, skip: int
) -> Iterator[pa.Array]:
    try:
        for batch in _batches(file, parquet, group, [name]):
            column = batch.column(0)[skip:]
            skip -= min(skip, len(batch))
            if len(column):
                yield column
    except InputError:
        return


def _nulls(count: int, field: pa.Field) -> pa.Array:
    return pa.nulls(count, field.type)


def _batches(
    file: InputFile, parquet: pq.ParquetFile, group: int, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """The row group in batches of about 8 MB. Raises: InputError, naming the row group."""
    metadata = parquet.metadata.row_group(group)
    row_bytes = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
    present = parquet.schema_arrow.names
    names = present if columns is None else [name for name in present if name in columns]
    constants = [
        (name, text)
        for name, text in file.partition
        if name not in present and (columns is None or name in columns)
    ]
    left = metadata.num_rows
    is_plain = plain_schema(parquet.schema_arrow).equals(parquet.schema_arrow)

    def selected(batch: pa.RecordBatch) -> pa.RecordBatch:
        nonlocal left
        left -= len(batch)
        own = batch.select(names)
        if not is_plain:
            own = plain_batch(own)
        if not constants:
            return own
        added = [pa.repeat(pa.scalar(text, pa.string()), len(batch)) for _, text in constants]
        return pa.RecordBatch.from_arrays([*own.columns, *added], [*names, *dict(constants)])

    try:
        batches = parquet.iter_batches(
            rows, row_groups=[group], columns=names or present[:1], use_threads=False
        )
        if metadata.num_rows <= rows:
            # This ends the reader, which frees the pages that it decompressed.
            batches = drain(list(batches))
        yield from map(selected, batches)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error, f"row group {group}") from error
    if left:
        short = ValueError(f"{many(left, 'row')} {inflect(left, 'is', 'are')} missing")
        raise unreadable(file, short, f"row group {group}") from short


def _row_hashes(
    file: InputFile, parquet: pq.ParquetFile, group: int, spec: InputSpec
) -> Iterator[bytes]:
    for batch, damage in _read_group(file, parquet, group, None, spec):
        if damage:
            yield from [UNREADABLE] * len(batch)
        else:
            yield from _content_hashes(batch)


def _content_hashes(batch: pa.RecordBatch) -> Iterator[bytes]:
    names = batch.schema.names
    for row in zip(*map(identity_values, batch.columns), strict=True):
        yield identity.of_content(dict(zip(names, row, strict=True)))


def _parquet_ids(batch: pa.RecordBatch, name: str | None) -> tuple[list[Any], list[str | None]]:
    """The ids that identify the rows, and the problems of those that cannot."""
    if name is None:
        return [None] * len(batch), [None] * len(batch)
    column = batch.column(name)
    values = identity_values(column)
    problems: list[str | None] = []
    for value in values:
        problem = "is null" if value is None else None
        if value.__class__ is float and not isfinite(value):
            problem = "is not a number" if value != value else "is infinite"
        if isinstance(value, bytes) and is_text(column.type):
            problem = "is not valid UTF-8"
        problems.append(f"`{name}` {problem}" if problem else None)
    return values, problems
