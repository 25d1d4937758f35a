"""Rows of Parquet files, by row groups; kept columns stay Arrow all the way.

pyarrow's dataset scanner needs 1 to 2.5 GB for a file that `iter_batches` reads in 170 MB. A page
may be damaged: then the file is refused, or with `input.salvage` the rows from there to the end of
its row group are isolated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.source import identity
from pipeline.source.blocks import Block, Chosen
from pipeline.source.files import InputFile, InputSpec, is_s3, seekable, unchanged, unreadable
from pipeline.source.jsonl import BATCH_BYTES, BATCH_ROWS
from pipeline.source.values import hashable, is_text
from pipeline.text import reason

UNREADABLE = identity.of_bytes(sha256(b"a row in a damaged part of a Parquet file").digest())
"""What rows without values have in common; occurrences tell them apart."""

S3_BYTES = 4 << 20
"""Of a column, read ahead from a bucket; of a file here 1 MB."""


def open_parquet(file: InputFile) -> pq.ParquetFile:
    """The file with its footer read. Raises: InputError for a footer that is not whole."""
    try:
        return pq.ParquetFile(
            seekable(file),
            buffer_size=S3_BYTES if is_s3(file.path) else 1 << 20,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError) as error:
        told = unreadable(file, error)
        if not isinstance(told, InputError):
            raise told from None
        raise InputError(f"{file.name}: not a whole Parquet file ({reason(error)})") from None


def parquet_blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    columns: Sequence[str] | None,
    chosen: Chosen | None,
) -> Iterator[Block]:
    for file in files:
        if chosen is not None and chosen.is_done:
            return
        with unchanged(file), open_parquet(file) as parquet:
            first = 0
            for group in range(parquet.num_row_groups):
                start = first
                held = parquet.metadata.row_group(group).num_rows
                if chosen is not None and chosen.skips(held):
                    first += held
                    continue
                # A row without a readable id is named by all its values, which are read only then.
                contents = enumerate(_contents(file, parquet, group, spec))
                for batch, damage in _read_group(file, parquet, group, columns, spec):
                    numbers: Sequence[int] = range(first, first + len(batch))
                    first += len(batch)
                    if chosen is not None:
                        at = [n for n in range(len(batch)) if chosen.takes()]
                        batch, numbers = (
                            batch.take(pa.array(at, pa.int64())),
                            [numbers[n] for n in at],
                        )
                        if not at:
                            continue
                    block = Block(file, numbers, [], [], [], [], batch)
                    hashes = _content_hashes(batch) if spec.id is None else iter(())
                    values, problems = _parquet_ids(batch, spec.id)
                    for number, value, problem in zip(numbers, values, problems, strict=True):
                        if spec.id is None:
                            hashed = UNREADABLE if damage else next(hashes)
                        elif problem is None:
                            hashed = identity.of_id(value)
                        else:
                            hashed = next(h for n, h in contents if n == number - start)
                        block.hashes.append(hashed)
                        block.unique.append(spec.id is not None and problem is None)
                        block.ids.append(value)
                        block.errors.append(damage or problem)
                    # As everywhere below: what waits at a `yield` must not hold 200 MB of Arrow.
                    ready = [block]
                    del block, batch, values
                    yield ready.pop()


def _read_group(
    file: InputFile,
    parquet: pq.ParquetFile,
    group: int,
    columns: Sequence[str] | None,
    spec: InputSpec,
) -> Iterator[tuple[pa.RecordBatch, str | None]]:
    """The row group in batches of some 8 MB; to be salvaged, what comes after a damaged page as
    batches that hold nothing but ids, and why. Raises: InputError, naming the row group.

    A reader that met a damaged page cannot go on behind it, so the range reaches to the end of the
    row group; ids are read by themselves, and end only where their own column is damaged.
    """
    done, rows = 0, parquet.metadata.row_group(group).num_rows
    try:
        for batch in _batches(file, parquet, group, columns):
            done += len(batch)
            ready = [batch]
            del batch
            yield ready.pop(), None
        return
    except InputError as error:
        if not spec.salvage:
            raise
        why = reason(error.__cause__ or error)
    damage = f"it lies in row group {group}, which is damaged ({why})"
    schema = parquet.schema_arrow
    wanted = schema.names if columns is None else [n for n in schema.names if n in columns]
    ids = _ids_from(file, parquet, group, spec.id, done) if spec.id else iter(())
    while done < rows:
        known = next(ids, None)
        count = len(known) if known is not None else min(BATCH_ROWS, rows - done)
        arrays = [
            known if known is not None and name == spec.id else _nulls(count, schema.field(name))
            for name in wanted
        ]
        done += count
        yield pa.RecordBatch.from_arrays(arrays, wanted), damage


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
    """The row group in batches of some 8 MB. Raises: InputError, naming the row group."""
    described = parquet.metadata.row_group(group)
    row_bytes = max(1, described.total_byte_size // max(1, described.num_rows))
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))
    present = parquet.schema_arrow.names
    wanted = present if columns is None else [name for name in present if name in columns]
    left = described.num_rows
    try:
        each = parquet.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False)
        if described.num_rows <= rows:
            whole = list(each)
            # The reader is done with, and with it the pages that it unpacked.
            each = _popped(whole)
        while ready := list(islice(each, 1)):
            left -= len(ready[0])
            yield ready.pop().select(wanted)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error, f"row group {group}") from error
    if left:
        short = ValueError(f"{left} rows are missing")
        raise unreadable(file, short, f"row group {group}") from short


def _popped(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    batches.reverse()
    while batches:
        yield batches.pop()


def _contents(
    file: InputFile, parquet: pq.ParquetFile, group: int, spec: InputSpec
) -> Iterator[bytes]:
    for batch, damage in _read_group(file, parquet, group, None, spec):
        if damage:
            yield from [UNREADABLE] * len(batch)
        else:
            yield from _content_hashes(batch)


def _content_hashes(batch: pa.RecordBatch) -> Iterator[bytes]:
    names = batch.schema.names
    for row in zip(*map(hashable, batch.columns), strict=True):
        yield identity.of_content(dict(zip(names, row, strict=True)))


def _parquet_ids(batch: pa.RecordBatch, name: str | None) -> tuple[list[Any], list[str | None]]:
    """The ids by which rows are named, and why some cannot be."""
    if name is None:
        return [None] * len(batch), [None] * len(batch)
    column = batch.column(name)
    values = hashable(column)
    problems: list[str | None] = []
    for value in values:
        bad = "is null" if value is None else "is not a number" if value != value else None
        if isinstance(value, bytes) and is_text(column.type):
            bad = "is not valid UTF-8"
        problems.append(f"`{name}` {bad}" if bad else None)
    return values, problems
