"""Opens a file of rows by its format and compression, and yields its rows block by block."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from typing import BinaryIO

import pyarrow as pa

from pipeline.source.blocks import Block, RowSelection
from pipeline.source.files import InputFile, InputSpec, buffered, unchanged, unreadable
from pipeline.source.formats.delimited import delimited_rows
from pipeline.source.formats.json_array import json_rows
from pipeline.source.formats.jsonl import jsonl_rows
from pipeline.source.formats.parquet import parquet_blocks
from pipeline.source.formats.table import Kind
from pipeline.source.formats.text_files import text_blocks
from pipeline.source.rows import RawRows, row_blocks

ROWS: dict[Kind, Callable[[InputFile, BufferedReader, InputSpec], RawRows]] = {
    "jsonl": jsonl_rows,
    "json": json_rows,
    "csv": delimited_rows,
    "tsv": partial(delimited_rows, delimiter="\t"),
}
"""The formats that are read from front to back."""


def blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    columns: Sequence[str] | None,
    selection: RowSelection | None = None,
    id_kind: type | None = None,
) -> Iterator[Block]:
    """All rows of all files, or those of `selection`; of Parquet files these columns, None = all.

    `id_kind` is the kind of ids that are no Arrow values, for a reader that does not begin at the
    first row.
    """
    kind = files[0].format.kind
    if kind == "parquet":
        yield from parquet_blocks(spec, files, columns, selection)
    elif kind == "text":
        yield from text_blocks(spec, files, selection, id_kind)
    else:
        yield from row_blocks(spec, files, partial(_open_rows, spec), selection, id_kind)


@contextmanager
def _open_rows(spec: InputSpec, file: InputFile) -> Iterator[RawRows]:
    """The file's rows, decompressed and undecoded."""
    with unchanged(file) as raw:
        yield from _decompress(spec, file, raw)


def _decompress(spec: InputSpec, file: InputFile, raw: BinaryIO) -> Iterator[RawRows]:
    name = file.path.lower()
    try:
        if name.endswith(".gz"):
            stream = buffered(gzip.GzipFile(fileobj=raw))  # type: ignore[arg-type]
        elif name.endswith(".zst"):
            stream = buffered(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"))
        else:
            stream = buffered(raw)
        with stream:
            yield ROWS[file.format.kind](file, stream, spec)
    except FileNotFoundError:  # deleted on the server, between two requests
        raise
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from None
