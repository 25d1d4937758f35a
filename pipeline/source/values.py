"""Conversions between Arrow columns, Python values and JSON types."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.source.identity import Moment
from pipeline.source.json_types import JsonType, ListOf, ObjectOf

_ARROW = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
}


def arrow_type(json_type: JsonType) -> pa.DataType:
    """The Arrow type of a JSON column. For only nulls or empty objects it is string: Parquet has no
    structs without fields, and few readers accept columns without a type."""
    if isinstance(json_type, ListOf):
        return pa.list_(pa.field("element", arrow_type(json_type.element)))
    if isinstance(json_type, ObjectOf) and json_type.fields:
        return pa.struct([(key, arrow_type(field)) for key, field in json_type.fields.items()])
    return _ARROW[json_type] if isinstance(json_type, str) else pa.string()


def json_array(json_type: JsonType, values: list[Any]) -> pa.Array:
    """The column of these values, all of which fit the type."""
    if _has_empty_object(json_type):
        values = [_replace_empty_objects(json_type, value) for value in values]
    return pa.array(values, arrow_type(json_type))


def python_values(array: pa.Array) -> list[Any]:
    """The values as Python objects; times that Python cannot represent become ISO 8601 text."""
    if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
        return [v and v.replace(" ", "T", 1) for v in array.cast(pa.string()).to_pylist()]
    try:
        values: list[Any] = array.to_pylist()
    except (ValueError, OverflowError):
        values = array.cast(_without_temporal(array.type)).to_pylist()
    return values


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, plain or dictionary-encoded."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def identity_values(array: pa.Array) -> list[Any]:
    """The values that identities are computed from: logical type and value, for any Arrow type.

    Text that is not UTF-8 becomes bytes, temporal values become nanoseconds.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return identity_values(array.dictionary_decode())
    if is_text(kind):
        if is_valid_utf8(array):
            return list(array.to_pylist())
        raw = array.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        return [value and _text_or_bytes(value) for value in raw]
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        name, tick = _temporal_unit(kind)
        wide = array.cast(pa.int32()) if kind.bit_width == 32 else array
        ticks = wide.cast(pa.int64()).to_pylist()
        return [None if v is None else Moment(name, v * tick) for v in ticks]
    if is_valid_utf8(array):
        return python_values(array)
    return [
        python_values(value)[0] if is_valid_utf8(value) else b"not UTF-8"
        for value in (array.take(pa.array([at])) for at in range(len(array)))
    ]


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _temporal_unit(kind: pa.DataType) -> tuple[str, int]:
    """The name of a temporal type and its tick in nanoseconds."""
    if pa.types.is_date(kind):
        return "date", 86_400_000_000_000 if pa.types.is_date32(kind) else 1_000_000
    tick = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[kind.unit]
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp with zone", tick
    return "time" if pa.types.is_time(kind) else "duration", tick


def is_valid_utf8(array: pa.Array) -> bool:
    """Whether all text in it, at any depth, is UTF-8: Arrow does not check on reading."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _has_empty_object(json_type: JsonType) -> bool:
    if isinstance(json_type, ListOf):
        return _has_empty_object(json_type.element)
    if isinstance(json_type, ObjectOf):
        return not json_type.fields or any(map(_has_empty_object, json_type.fields.values()))
    return False


def _replace_empty_objects(json_type: JsonType, value: Any) -> Any:
    if isinstance(json_type, ListOf) and value is not None:
        return [_replace_empty_objects(json_type.element, item) for item in value]
    if isinstance(json_type, ObjectOf) and value is not None:
        fields = json_type.fields
        return (
            {k: _replace_empty_objects(fields[k], v) for k, v in value.items()} if fields else None
        )
    return value


def _without_temporal(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of timestamps and ticks in place of other temporal types."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_temporal(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_without_temporal(kind.key_type), _without_temporal(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_without_temporal(kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_without_temporal(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_without_temporal(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pa.string()
    return pa.int64() if pa.types.is_temporal(kind) and kind.bit_width == 64 else kind
