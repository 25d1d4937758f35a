"""Plain Arrow types: the forms in which every stage after the reader sees a column.

Arrow has several layouts for one kind of value. pyarrow cannot take, concatenate or write all of
them, so a column gets its plain layout once, where it is read. Its values never change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def plain_type(kind: pa.DataType, *, is_nested: bool = False) -> pa.DataType:
    """The type without views and run-end encoding, dictionaries at the top only and with 32-bit
    indices, extension types as what they store (JSON and UUID have a meaning here and stay)."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.json":
            return pa.json_(plain_type(kind.storage_type))
        is_known = kind.extension_name == "arrow.uuid"
        return kind if is_known else plain_type(kind.storage_type, is_nested=is_nested)
    if types.is_dictionary(kind):
        value = plain_type(kind.value_type, is_nested=True)
        return value if is_nested else pa.dictionary(pa.int32(), value, kind.ordered)
    if types.is_run_end_encoded(kind):
        return plain_type(kind.value_type, is_nested=is_nested)
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_map(kind):
        key, item = (_plain_field(field) for field in (kind.key_field, kind.item_field))
        return pa.map_(key, item, kind.keys_sorted)
    if types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(at)) for at in range(kind.num_fields)])
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain_field(kind.value_field))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with plain types; its metadata stays."""
    fields = [field.with_type(plain_type(field.type)) for field in schema]
    return pa.schema(fields, schema.metadata)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with plain columns."""
    return pa.RecordBatch.from_arrays(list(map(plain, batch.columns)), batch.schema.names)


def plain(array: pa.Array) -> pa.Array:
    """The column in its plain type; the column itself where it has that type."""
    return _as(array, plain_type(array.type))


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type, is_nested=True))


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    types, have = pa.types, array.type
    if have.equals(kind):
        return array
    if isinstance(have, pa.BaseExtensionType):
        storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        stored = _as(array.storage, storage)
        is_extension = isinstance(kind, pa.BaseExtensionType)
        return pa.ExtensionArray.from_storage(kind, stored) if is_extension else stored
    if types.is_dictionary(have):
        values = _as(array.dictionary, kind.value_type if types.is_dictionary(kind) else kind)
        if not types.is_dictionary(kind):
            return values.take(array.indices)
        indices = array.indices.cast(kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)
    if types.is_run_end_encoded(have):
        values = _as(array.values, kind)
        lengths = pa.RunEndEncodedArray.from_arrays(array.run_ends, pa.array(range(len(values))))
        return values.take(pc.run_end_decode(lengths).slice(array.offset, len(array)))
    if types.is_struct(have):
        children = [_as(array.field(at), kind.field(at).type) for at in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if types.is_fixed_size_list(have):
        items = _as(array.values, kind.value_type)
        start = array.offset * kind.list_size
        items = items.slice(start, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(items, type=kind, mask=array.is_null())
    if types.is_nested(have):
        return _list_as(array, kind)
    return array.cast(kind)


def _list_as(array: Any, kind: pa.DataType) -> pa.Array:
    """A list, list view or map with its items in another type."""
    is_map = pa.types.is_map(kind)
    starts = array.offsets.to_numpy()
    view = pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type)
    lengths = array.sizes.to_numpy() if view else np.diff(starts)
    lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    ends = np.cumsum(lengths, dtype=np.int64)
    at = np.repeat(starts[: len(lengths)].astype(np.int64) - (ends - lengths), lengths)
    take = pa.array(at + np.arange(len(at)))
    width = pa.int64() if pa.types.is_large_list(kind) else pa.int32()
    offsets = pa.array(np.concatenate([[0], ends])).cast(width)
    if is_map:
        keys, items = (
            _as(values, wanted).take(take)
            for values, wanted in ((array.keys, kind.key_type), (array.items, kind.item_type))
        )
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=array.is_null())
    items = _as(array.values, kind.value_type).take(take)
    make = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    return make.from_arrays(offsets, items, type=kind, mask=array.is_null())
