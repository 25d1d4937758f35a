"""Reads the vectors of an output and their rows, and finds the nearest ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.disk.json_lines import JsonLines
from pipeline.disk.output_path import output_suffix
from pipeline.errors import InputError, UsageError
from pipeline.source.types.values import python_values
from pipeline.text import reason, shown

Batch = tuple[NDArray[np.float32], Callable[[int], dict[str, Any]]]


def metadata(path: str) -> dict[str, str]:
    """The metadata of the output: `textmill.model`, `textmill.task`, ...

    Raises: UsageError if there is no such output; InputError if it cannot be read.
    """
    with _open_output(_files(path)[0]) as file:
        entries = (file.schema_arrow.metadata or {}).items()
    return {key.decode(): value.decode() for key, value in entries if key[:9] == b"textmill."}


def vector_batches(path: str) -> Iterator[Batch]:
    """Vectors as (n, dim) float32, each batch with a function that returns the row of one vector.

    Rows without a vector are skipped. Cost: memory for one batch of vectors; other columns are read
    only when a row is requested.
    """
    for name in _files(path):
        with _open_output(name) as file:
            columns = [column for column in file.schema_arrow.names if column != "vector"]
            for group in range(file.num_row_groups):
                yield _vector_batch(file, name, group, columns)


def chunk_ids(path: str, column: str, matches: Callable[[Any], bool]) -> set[str] | None:
    """The `chunk_id`s of the rows with a matching id, empty if the output has one row per document;
    None: there is no such row, or no such output."""
    try:
        rows = (
            _json_chunk_ids(path, column)
            if output_suffix(path) == ".jsonl"
            else _parquet_chunk_ids(path, column)
        )
        chunks = [chunk for row_id, chunk in rows if matches(row_id)]
    except (UsageError, InputError, OSError):
        return None
    return {chunk for chunk in chunks if isinstance(chunk, str)} if chunks else None


def _parquet_chunk_ids(path: str, column: str) -> Iterator[tuple[Any, Any]]:
    for name in _files(path):
        with _open_output(name) as file:
            columns = [each for each in (column, "chunk_id") if each in file.schema_arrow.names]
            for group in range(file.num_row_groups if column in columns else 0):
                table = _read_group(file, name, group, columns)
                ids = python_values(table[column])
                chunks = (
                    python_values(table["chunk_id"]) if "chunk_id" in columns else [None] * len(ids)
                )
                yield from zip(ids, chunks, strict=True)


def _json_chunk_ids(path: str, column: str) -> Iterator[tuple[Any, Any]]:
    for row in JsonLines(Path(path), dict[str, Any]):
        yield row.get(column), row.get("chunk_id")


def _vector_batch(file: pq.ParquetFile, name: str, group: int, columns: list[str]) -> Batch:
    vectors = _read_group(file, name, group, ["vector"])["vector"].combine_chunks()
    if isinstance(vectors, pa.ChunkedArray):  # a row group without rows
        chunks = vectors.chunks
        vectors = pa.concat_arrays(chunks) if chunks else pa.array([], vectors.type)
    positions = np.flatnonzero(np.asarray(vectors.is_valid()))
    flat = (
        vectors.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    )
    matrix = flat.reshape(len(positions), -1) if len(positions) else np.empty((0, 0), np.float32)
    tables: list[pa.Table] = []

    def row_at(index: int) -> dict[str, Any]:
        if not tables:
            tables.append(_read_group(file, name, group, columns))
        row = tables[0].slice(int(positions[index]), 1)
        pairs = zip(row.column_names, row.columns, strict=True)
        return {column: python_values(values)[0] for column, values in pairs}

    return matrix, row_at


def _read_group(file: pq.ParquetFile, name: str, group: int, columns: list[str]) -> pa.Table:
    try:
        return file.read_row_group(group, columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{shown(name)}: row group {group} cannot be read ({reason(error)})"
        ) from None


def _files(path: str) -> list[str]:
    output = Path(path)
    if output.is_dir():
        files = sorted(str(file) for file in output.glob("*.parquet"))
        if not files:
            raise UsageError(f"{shown(path)}: no Parquet file in this folder")
        return files
    if not output.is_file():
        raise UsageError(f"{shown(path)}: no such output")
    return [path]


def _open_output(name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(name, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown(name)}: not a Parquet output ({reason(error)})") from None


class Hit(Struct, frozen=True):
    """One row of an output and its cosine similarity to the question."""

    score: float
    row: dict[str, Any]


def nearest(path: str, question: NDArray[np.float32], count: int) -> list[Hit]:
    """The `count` rows whose vectors are nearest to `question`, best first, ties by file order.

    Shape: `question` is (dim,) float32, unit length; rows without a vector are skipped.
    """
    best: list[tuple[float, int, dict[str, Any]]] = []
    position = 0
    for matrix, row_at in vector_batches(path):
        if not len(matrix):
            continue
        if matrix.shape[1] != len(question):
            raise UsageError(
                f"{path}: vectors of {matrix.shape[1]} dimensions, the question has {len(question)}"
            )
        norms = np.linalg.norm(matrix, axis=1)
        # matrix @ question adds equal rows in different orders: rounding would decide ties.
        products = np.einsum("ij,j->i", matrix, question)
        scores = np.nan_to_num(products / np.maximum(norms, 1e-12), nan=-np.inf)
        floor = best[-1][0] if len(best) == count else -np.inf
        order = np.argsort(-scores, kind="stable")[:count]
        for index in order.tolist():
            if scores[index] <= floor:
                break
            best.append((float(scores[index]), position + index, row_at(index)))
        best.sort(key=lambda hit: (-hit[0], hit[1]))
        del best[count:]
        position += len(matrix)
    return [Hit(round(score, 4), row) for score, _, row in best]
