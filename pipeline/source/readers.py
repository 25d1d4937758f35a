"""Opens a file of rows by its format and compression, and yields its rows block by block."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from typing import BinaryIO

import pyarrow as pa

from pipeline.source.blocks import Block, RowSelection
from pipeline.source.files import InputFile, InputSpec, buffered, family, unchanged, unreadable
from pipeline.source.jsonl import jsonl_blocks
from pipeline.source.parquet import parquet_blocks


def blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    columns: Sequence[str] | None,
    selection: RowSelection | None = None,
    id_kind: type | None = None,
) -> Iterator[Block]:
    """All rows of all files, or those of `selection`; of Parquet files these columns, None = all.

    `id_kind` is the kind of JSON ids, for a reader that does not begin at the first row.
    """
    if family(files[0].path) == "jsonl":
        yield from jsonl_blocks(spec, files, _open_lines, selection, id_kind)
    else:
        yield from parquet_blocks(spec, files, columns, selection)


@contextmanager
def _open_lines(file: InputFile) -> Iterator[BufferedReader]:
    """The file's decompressed bytes."""
    with unchanged(file) as raw:
        yield from _decompress(file, raw)


def _decompress(file: InputFile, raw: BinaryIO) -> Iterator[BufferedReader]:
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
