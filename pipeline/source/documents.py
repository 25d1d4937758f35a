"""Rows of the input as documents.

The input is read twice: the survey needs identities and types before the first request, the run
needs documents. Both passes use `blocks`, so that they agree on what a row is, which rows are
unreadable and how each is identified. Rows of text formats are read one by one, because pyarrow's
readers fail a whole block for one bad line; kept columns of Parquet remain Arrow arrays throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.records import Document, RowRef
from pipeline.source import identity
from pipeline.source.blocks import BATCH_BYTES, Block, RowSelection
from pipeline.source.readers import blocks
from pipeline.source.rows import ID_KINDS
from pipeline.source.types.json_columns import json_array
from pipeline.source.types.json_types import JsonType, Misfit, type_changes, widen
from pipeline.source.types.values import identity_values, is_valid_utf8, python_values
from pipeline.text import printable, reason, shown

if TYPE_CHECKING:
    from pipeline.source.survey import Survey

Rows = tuple[list[str | None], list[dict[str, Any]], list[str | None], pa.RecordBatch]
"""Texts, fields, errors and kept columns of a block."""


def parquet_rows(block: Block, survey: Survey) -> Rows:
    """Texts, fields, errors and kept columns of a block."""
    spec, batch, count = survey.spec, block.rows, len(block.rows)
    texts, errors = identity_values(batch.column(spec.text)), list(block.errors)
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
        if not is_valid_utf8(column):
            for at in range(count):
                if errors[at] is None and not is_valid_utf8(column.take(pa.array([at]))):
                    errors[at] = f"`{name}` is not valid UTF-8"
    for at, text in enumerate(texts):
        if isinstance(text, bytes):
            errors[at] = errors[at] or f"`{spec.text}` is not valid UTF-8"
        elif text and _size_up_to(text, spec.max_row_bytes) > spec.max_row_bytes:
            bound = f"guard.max_row_bytes = {spec.max_row_bytes:,} bytes"
            errors[at] = errors[at] or f"`{spec.text}` is longer than {bound}"
    if any(errors):
        readable = pa.array([None if e else at for at, e in enumerate(errors)], pa.int64())
        with_id = pa.array([at if has else None for at, has in enumerate(block.unique)], pa.int64())
        columns = [
            column.take(with_id if name == spec.id else readable)
            for name, column in zip(survey.schema.names, columns, strict=True)
        ]
        fields = {name: column.take(readable) for name, column in fields.items()}
        texts = [None if e else text for e, text in zip(errors, texts, strict=True)]
    if spec.id is not None:
        block.ids[:] = python_values(columns[survey.schema.get_field_index(spec.id)])
    lists = {name: python_values(column) for name, column in fields.items()}
    values = [{name: items[at] for name, items in lists.items()} for at in range(count)]
    return texts, values, errors, pa.RecordBatch.from_arrays(columns, schema=survey.schema)


def _size_up_to(text: str, max_bytes: int) -> int:
    """The text's length in UTF-8 where it could exceed the bound, else in characters."""
    return len(text.encode()) if len(text) <= max_bytes < 4 * len(text) else len(text)


def _cast(block: Block, column: pa.Array, field: pa.Field) -> pa.Array:
    """The column cast to the type that all files share."""
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


def read(
    survey: Survey, needed: Callable[[], Iterator[npt.NDArray[np.int64]]] | None = None
) -> Iterator[list[Document]]:
    """The documents in input order, in batches of at most 256 rows and about 8 MB; a larger row
    is a batch of its own. `needed` yields, for each part, the numbers of the rows to read; None
    reads all.

    Invariant: a batch is within one part; identities and parts are those of the survey.
    Raises: InputError where the input differs from the survey, or a page of it is damaged.
    Cost: holds one batch.
    """
    spec, part, last = survey.spec, 0, (survey.rows, -1)
    names = None if spec.id is None else [*survey.schema.names, spec.text, *spec.fields]
    repeats = iter(survey.occurrences)
    repeat = next(repeats, None)
    positions = _row_positions(survey, needed)
    selection = id_kind = None
    if needed is not None:
        selection = RowSelection(row for row, _ in _row_positions(survey, needed))
        kind = (survey.types or {}).get(spec.id or "")
        id_kind = ID_KINDS.get(kind) if isinstance(kind, str) else None
    for block in blocks(spec, survey.files, names, selection, id_kind):
        if not block.hashes:
            continue
        read_rows = parquet_rows if survey.types is None else _object_rows
        texts, fields, errors, row_ref = read_rows(block, survey)
        batch: list[Document] = []
        size = 0
        for at, (hashed, text, error) in enumerate(zip(block.hashes, texts, errors, strict=True)):
            row, row_part = next(positions, last)
            if row_part < 0:
                raise _input_changed(survey)
            if row_part != part:
                part = row_part
                size = BATCH_BYTES + 1
            if batch and size + (len(text) if text else 0) > BATCH_BYTES:
                yield batch
                batch, size = [], 0
            size += len(text) if text else 0
            row_identity = hashed
            if not block.unique[at]:
                nth = 0
                while repeat is not None and repeat[0] < row:
                    repeat = next(repeats, None)
                if repeat is not None and repeat[0] == row:
                    nth, repeat = repeat[1], next(repeats, None)
                row_identity = identity.of_occurrence(hashed, nth)
            batch.append(
                Document(
                    identity=row_identity,
                    id=row_identity.hex() if spec.id is None else block.ids[at],
                    text=text,
                    fields=fields[at],
                    address=block.address(at),
                    part=part,
                    row_ref=RowRef(row_ref, at),
                    error=error,
                    row=row,
                )
            )
        # A document may have 200 MB: no variable may hold it while the next one is read.
        del block, texts, fields, row_ref, text
        if batch:
            yield batch
    if next(positions, None) is not None:
        raise _input_changed(survey)


def _row_positions(
    survey: Survey, needed: Callable[[], Iterator[npt.NDArray[np.int64]]] | None
) -> Iterator[tuple[int, int]]:
    """Number and part of each row to read."""
    start, selected = 0, needed() if needed is not None else None
    for part, count in enumerate(survey.part_rows):
        rows = range(start, start + count) if selected is None else next(selected).tolist()
        for row in rows:
            yield row, part
        start += count


def _input_changed(survey: Survey) -> InputError:
    return InputError(f"{shown(survey.spec.path)}: changed while it was read (other rows)")


def _object_rows(block: Block, survey: Survey) -> Rows:
    """Texts, fields, errors and kept columns of a block."""
    spec, types = survey.spec, survey.types or {}
    objects: list[Mapping[str, Any]] = []
    errors = list(block.errors)
    for at, row in enumerate(block.rows):
        try:
            if errors[at] is None and (changes := type_changes(types, row)):
                errors[at] = f"`{printable(next(iter(changes)), 60)}` does not fit its column"
        except Misfit as misfit:
            errors[at] = printable(str(misfit))
        objects.append(row if errors[at] is None else _only_id(block, at, spec.id, types))
    arrays = [json_array(f.type, [row.get(f.name) for row in objects]) for f in survey.schema]
    batch = pa.RecordBatch.from_arrays(arrays, schema=survey.schema)
    texts = (
        [row.get(spec.text) for row in objects]
        if spec.text != spec.id
        else [
            None if error else row.get(spec.text)
            for row, error in zip(objects, errors, strict=True)
        ]
    )
    fields = [
        {name: row.get(name) if error is None else None for name in spec.fields}
        for row, error in zip(objects, errors, strict=True)
    ]
    return texts, fields, errors, batch


def _only_id(
    block: Block, at: int, name: str | None, types: Mapping[str, JsonType]
) -> dict[str, Any]:
    if name is None or block.ids[at] is None:
        return {}
    try:
        widen(types.get(name), block.ids[at])
    except Misfit:
        block.ids[at] = None
        return {}
    return {name: block.ids[at]}
