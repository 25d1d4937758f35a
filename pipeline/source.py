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
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
    shown,
    unchanged,
    unreadable,
)
from pipeline.jsonl import BATCH_BYTES, ID_KINDS, jsonl_blocks
from pipeline.jsontypes import JsonType, Misfit, changed_fields, widened
from pipeline.parquet import Rows, parquet_blocks, parquet_rows
from pipeline.records import Document, Kept
from pipeline.schema import json_array

if TYPE_CHECKING:
    from pipeline.survey import Survey


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
        typed = parquet_rows if survey.types is None else _jsonl_rows
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
        yield from parquet_blocks(spec, files, columns, chosen)


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


def _jsonl_rows(block: Block, survey: Survey) -> Rows:
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
