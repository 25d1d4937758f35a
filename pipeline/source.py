"""Rows of the input as documents.

The input is read twice: the survey needs identities and types before the first request, the run
needs documents. Both passes go through `blocks`, so that they cannot disagree about what a row is,
which row is unreadable and what it is called. JSONL is read line by line, because pyarrow's reader
fails a whole block for one bad line; kept columns of Parquet stay Arrow all the way.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import identity
from pipeline.errors import InputError
from pipeline.escape import printable
from pipeline.files import (
    Block,
    Chosen,
    InputFile,
    InputSpec,
    buffered,
    family,
    is_s3,
    reason,
    seekable,
    shown,
    unchanged,
    unreadable,
)
from pipeline.jsonl import BATCH_BYTES, BATCH_ROWS, ID_KINDS, jsonl_blocks
from pipeline.jsontypes import JsonType, Misfit, changed_fields, widened
from pipeline.records import Document, Kept
from pipeline.schema import hashable, is_text, json_array, python_values, readable

if TYPE_CHECKING:
    from pipeline.survey import Survey

UNREADABLE = identity.of_bytes(sha256(b"a row in a damaged part of a Parquet file").digest())
"""What rows without values have in common; occurrences tell them apart."""

S3_BYTES = 4 << 20
"""Of a column, read ahead from a bucket; of a file here 1 MB."""


def read(
    survey: Survey, needed: Callable[[], Iterator[npt.NDArray[np.int64]]] | None = None
) -> Iterator[list[Document]]:
    """The documents in input order, in batches of at most 256 rows and about 8 MB; a larger row
    comes alone. `needed` gives for each part the numbers of its rows that are wanted; None: all.

    Invariant: a batch lies within one part; identities and parts are those of the survey.
    Raises: InputError where the input is not what was surveyed, or a page of it is damaged.
    Cost: holds one batch.
    """
    spec, part, last = survey.spec, 0, (survey.rows, -1)
    names = None if spec.id is None else [*survey.schema.names, spec.text, *spec.fields]
    repeats = iter(survey.occurrences)
    repeat = next(repeats, None)
    places = _places(survey, needed)
    chosen = id_kind = None
    if needed is not None:
        chosen = Chosen(row for row, _ in _places(survey, needed))
        kind = (survey.types or {}).get(spec.id or "")
        id_kind = ID_KINDS.get(kind) if isinstance(kind, str) else None
    for block in blocks(spec, survey.files, names, chosen, id_kind):
        typed = _parquet_rows if survey.types is None else _jsonl_rows
        texts, fields, errors, kept = typed(block, survey)
        batch: list[Document] = []
        size = 0
        for at, (hashed, text, error) in enumerate(zip(block.hashes, texts, errors, strict=True)):
            row, mine = next(places, last)
            if mine < 0:
                raise _changed(survey)
            if mine != part:
                part = mine
                size = BATCH_BYTES + 1
            if batch and size + (len(text) if text else 0) > BATCH_BYTES:
                yield batch
                batch, size = [], 0
            size += len(text) if text else 0
            name = hashed
            if not block.unique[at]:
                nth = 0
                while repeat is not None and repeat[0] < row:
                    repeat = next(repeats, None)
                if repeat is not None and repeat[0] == row:
                    nth, repeat = repeat[1], next(repeats, None)
                name = identity.numbered(hashed, nth)
            batch.append(
                Document(
                    identity=name,
                    id=name.hex() if spec.id is None else block.ids[at],
                    text=text,
                    fields=fields[at],
                    address=block.address(at),
                    part=part,
                    kept=Kept(kept, at),
                    error=error,
                )
            )
        # A document may be 200 MB: no name may hold on to it while the next one is read.
        del block, texts, fields, kept, text
        if batch:
            yield batch
    if next(places, None) is not None:
        raise _changed(survey)


def _places(
    survey: Survey, needed: Callable[[], Iterator[npt.NDArray[np.int64]]] | None
) -> Iterator[tuple[int, int]]:
    """Number and part of each row to come."""
    start, wanted = 0, needed() if needed is not None else None
    for part, count in enumerate(survey.part_rows):
        rows = range(start, start + count) if wanted is None else next(wanted).tolist()
        for row in rows:
            yield row, part
        start += count


def _changed(survey: Survey) -> InputError:
    return InputError(f"{shown(survey.spec.path)}: changed while it was read (other rows)")


def blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    columns: Sequence[str] | None,
    chosen: Chosen | None = None,
    id_kind: type | None = None,
) -> Iterator[Block]:
    """All rows of all files, or the chosen ones; of Parquet files these columns, None = all.

    `id_kind` is that of JSON ids, for a reader who does not begin at the first row.
    """
    if family(files[0].path) == "jsonl":
        yield from jsonl_blocks(spec, files, _opened, chosen, id_kind)
    else:
        yield from _parquet_blocks(spec, files, columns, chosen)


# JSONL


@contextmanager
def _opened(file: InputFile) -> Iterator[BinaryIO]:
    """The file's lines, unpacked."""
    with unchanged(file) as raw:
        yield from _unpacked(file, raw)


def _unpacked(file: InputFile, raw: BinaryIO) -> Iterator[BinaryIO]:
    name = file.path.lower()
    try:
        if name.endswith(".gz"):
            yield buffered(gzip.GzipFile(fileobj=raw))  # type: ignore[arg-type]
        elif name.endswith(".zst"):
            yield buffered(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"))
        else:
            yield buffered(raw)
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from None


_Rows = tuple[list[str | None], list[dict[str, Any]], list[str | None], pa.RecordBatch]


def _jsonl_rows(block: Block, survey: Survey) -> _Rows:
    """Texts, fields, errors and kept columns of a block."""
    spec, types = survey.spec, survey.types or {}
    good: list[Mapping[str, Any]] = []
    errors = list(block.errors)
    for at, row in enumerate(block.rows):
        try:
            if errors[at] is None and (changes := changed_fields(types, row)):
                errors[at] = f"`{printable(next(iter(changes)), 60)}` does not fit its column"
        except Misfit as misfit:
            errors[at] = printable(str(misfit))
        good.append(row if errors[at] is None else _only_id(block, at, spec.id, types))
    arrays = [json_array(types.get(n), [r.get(n) for r in good]) for n in survey.schema.names]
    batch = pa.RecordBatch.from_arrays(arrays, schema=survey.schema)
    texts = (
        [row.get(spec.text) for row in good]
        if spec.text != spec.id
        else [
            None if error else row.get(spec.text) for row, error in zip(good, errors, strict=True)
        ]
    )
    fields = [
        {name: row.get(name) if error is None else None for name in spec.fields}
        for row, error in zip(good, errors, strict=True)
    ]
    return texts, fields, errors, batch


def _only_id(
    block: Block, at: int, name: str | None, types: Mapping[str, JsonType]
) -> dict[str, Any]:
    if name is None or block.ids[at] is None:
        return {}
    try:
        widened(types.get(name), block.ids[at])
    except Misfit:
        block.ids[at] = None
        return {}
    return {name: block.ids[at]}


# Parquet


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


def _parquet_blocks(
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


def _parquet_rows(block: Block, survey: Survey) -> _Rows:
    """Texts, fields, errors and kept columns of a block."""
    spec, batch, count = survey.spec, block.rows, len(block.rows)
    texts, errors = hashable(batch.column(spec.text)), list(block.errors)
    columns = [
        _cast(block, batch.column(field.name), field)
        if field.name in batch.schema.names
        else pa.nulls(count, field.type)
        for field in survey.schema
    ]
    fields = {
        name: batch.column(name) if name in batch.schema.names else pa.nulls(count)
        for name in spec.fields
    }
    for name, column in [*zip(survey.schema.names, columns, strict=True), *fields.items()]:
        if not readable(column):
            for at in range(count):
                if errors[at] is None and not readable(column.take(pa.array([at]))):
                    errors[at] = f"`{name}` is not valid UTF-8"
    for at, text in enumerate(texts):
        if isinstance(text, bytes):
            errors[at] = errors[at] or f"`{spec.text}` is not valid UTF-8"
        elif text and _bytes(text, spec.max_row_bytes) > spec.max_row_bytes:
            most = f"guard.max_row_bytes = {spec.max_row_bytes:,} bytes"
            errors[at] = errors[at] or f"`{spec.text}` is longer than {most}"
    if any(errors):
        whole = pa.array([None if e else at for at, e in enumerate(errors)], pa.int64())
        named = pa.array([at if has else None for at, has in enumerate(block.unique)], pa.int64())
        columns = [
            column.take(named if name == spec.id else whole)
            for name, column in zip(survey.schema.names, columns, strict=True)
        ]
        fields = {name: column.take(whole) for name, column in fields.items()}
        texts = [None if e else text for e, text in zip(errors, texts, strict=True)]
    if spec.id is not None:
        block.ids[:] = python_values(columns[survey.schema.get_field_index(spec.id)])
    lists = {name: python_values(column) for name, column in fields.items()}
    values = [{name: each[at] for name, each in lists.items()} for at in range(count)]
    return texts, values, errors, pa.RecordBatch.from_arrays(columns, schema=survey.schema)


def _bytes(text: str, most: int) -> int:
    """The text's length in UTF-8, where it could be over the bound; else in characters."""
    return len(text.encode()) if len(text) <= most < 4 * len(text) else len(text)


def _cast(block: Block, column: pa.Array, field: pa.Field) -> pa.Array:
    """The column in the type that all files share."""
    if column.type.equals(field.type):
        return column
    try:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_dictionary(field.type):
            column = column.cast(field.type.value_type).dictionary_encode()
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise InputError(
            f"{block.file.name}: `{field.name}` cannot be read as {field.type} ({reason(error)})"
        ) from None
