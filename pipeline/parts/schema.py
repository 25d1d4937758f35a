"""The Arrow schema of the output, and the arrays of its vector columns.

An aggregator declares its columns as records. Only this module decides their types and order in a
file, so that two outputs of one job always have the same columns in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.parts.foreign import carried_metadata
from pipeline.records import Column

CHUNK_FIELDS = (
    pa.field("chunk_id", pa.string()),
    pa.field("chunk", pa.int64()),
    pa.field("start_char", pa.int64()),
    pa.field("end_char", pa.int64()),
    pa.field("tokens", pa.int64()),
    pa.field("section", pa.string()),
    pa.field("text", pa.string()),
)
STATUS_FIELDS = (pa.field("_status", pa.string()), pa.field("_error", pa.string()))
DOCUMENT_FIELDS = (
    pa.field("_truncated", pa.bool_()),
    pa.field("_chunks", pa.int64()),
    pa.field("_tokens", pa.int64()),
    pa.field("_model", pa.string()),
)


def output_schema(
    kept_schema: pa.Schema,
    columns: Sequence[Column],
    *,
    per_chunk: bool,
    id: str | None,
    text: str,
    dimension: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> pa.Schema:
    """The columns of the output, in order; `kept_schema` is the survey's schema, `id` and `text`
    are names of input columns, `dimension` is that of the vectors, if known. The input's metadata
    is carried along as far as it holds.

    Invariant: every field is nullable; names are unique.
    Raises: UsageError for a kept column whose name the output uses.
    """
    own = [pa.field(column.name, _column_type(column)) for column in columns]
    identity = [pa.field("id", pa.string())] if id is None else []
    if per_chunk:
        key = identity if id is None else [kept_schema.field(id)]
        carried = [field for field in kept_schema if field.name not in (id, text)]
        fields = [*key, *CHUNK_FIELDS, *carried, *own, *STATUS_FIELDS]
    else:
        carried = list(kept_schema)
        fields = [*identity, *carried, *own, *STATUS_FIELDS, *DOCUMENT_FIELDS]
    used = {field.name for field in (*identity, *own, *STATUS_FIELDS)}
    used |= {field.name for field in (CHUNK_FIELDS if per_chunk else DOCUMENT_FIELDS)}
    if per_chunk and id is not None and id in used:
        raise UsageError(f"input.id: `{id}` is a name that the output uses itself")
    for field in carried:
        if field.name in used:
            is_id = id is None and field.name == "id"
            raise UsageError(
                f"input.keep: `{field.name}` is a name that the output uses itself",
                hint='--id id, or `input.id = "id"` in the job file'
                if is_id
                else "name the columns to carry in `keep`",
            )
    plain = [field.with_nullable(True).remove_metadata() for field in fields]
    described = {*kept_schema.names, text}
    foreign = carried_metadata(kept_schema.metadata or {}, [f.name for f in plain], described)
    own_metadata = {name.encode(): value.encode() for name, value in (metadata or {}).items()}
    schema = pa.schema(plain, metadata=foreign | own_metadata or None)
    vectors = [column.name for column in columns if column.type == "vector"]
    return with_vectors(schema, dict.fromkeys(vectors, dimension)) if dimension else schema


def vector_type(dimension: int | None) -> pa.DataType:
    """The type of a vector column; without a dimension, where there is no vector, a list."""
    element = pa.field("element", pa.float32())
    return pa.list_(element) if dimension is None else pa.list_(element, dimension)


def with_vectors(schema: pa.Schema, dimensions: Mapping[str, int]) -> pa.Schema:
    """The schema with the dimensions of these columns set."""
    for name, dimension in dimensions.items():
        at = schema.get_field_index(name)
        schema = schema.set(at, pa.field(name, vector_type(dimension)))
        metadata = {**(schema.metadata or {}), b"textmill.dimension": str(dimension).encode()}
        schema = schema.with_metadata(metadata)
    return schema


def dimension_of(schema: pa.Schema) -> int | None:
    """The dimension of its vectors, if known."""
    dimension = (schema.metadata or {}).get(b"textmill.dimension")
    return int(dimension) if dimension else None


def vector_array(values: Sequence[bytes | None], kind: pa.DataType) -> pa.Array:
    """The vector column of these little-endian float32 bytes.

    Raises: ValueError for a vector of another dimension, hence of another vector space.
    """
    if not pa.types.is_fixed_size_list(kind):
        return pa.nulls(len(values), kind)
    size = kind.list_size * 4
    for value in values:
        if value is not None and len(value) != size:
            got = len(value) / 4
            raise ValueError(f"a vector of {got:g} numbers in an output of {kind.list_size}")
    raw = b"".join(bytes(size) if value is None else value for value in values)
    numbers = pa.array(np.frombuffer(raw, "<f4"))
    mask = pa.array([value is None for value in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind, mask=mask)


def row_weights(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """The approximate bytes of each row, by its value alone. Shape: (rows,)."""
    kind = column.type
    if isinstance(column, pa.ChunkedArray):
        return np.concatenate([row_weights(chunk) for chunk in column.chunks] or [np.zeros(0)])
    if isinstance(column, pa.ExtensionArray):
        return row_weights(column.storage)
    if pa.types.is_fixed_size_list(kind):
        # A null has the weight that it has before the size is known, so that row groups do not
        # depend on when the first vector appears.
        present = column.is_valid().to_numpy(zero_copy_only=False)
        return np.where(present, 8.0 * kind.list_size, 8.0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(lengths)
        sums = np.concatenate([[0.0], np.cumsum(row_weights(column.flatten()))])
        return np.asarray(sums[ends] - sums[ends - lengths] + 8)
    if pa.types.is_struct(kind):
        return sum((row_weights(child) for child in column.flatten()), np.zeros(len(column)))
    if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        lengths = pc.binary_length(column).fill_null(0)
        return np.asarray(lengths.to_numpy(zero_copy_only=False), np.float64) + 8
    return np.full(len(column), 8.0)


def _column_type(column: Column) -> pa.DataType:
    return vector_type(None) if column.type == "vector" else pa.string()
