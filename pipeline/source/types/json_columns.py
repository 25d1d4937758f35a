"""Arrow columns for the keys of JSON lines.

Arrow's objects have the keys of their column: a key that is missing from one object becomes null,
and `{}` has no form of its own. So a nested value that must come out as it came in is carried as
its JSON text, in Arrow's JSON type, which stands for the value wherever a column is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pyarrow as pa

from pipeline.source.types.json_types import JsonType, ListOf, ObjectOf

JSON = pa.json_(pa.string())

_ARROW = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "signed": pa.int64(),
    "unsigned": pa.uint64(),
    "float": pa.float64(),
    "string": pa.string(),
}
_encode = msgspec.json.Encoder().encode


def arrow_schema(types: Mapping[str, JsonType], *, for_json: bool) -> pa.Schema:
    """The Arrow types of JSON columns; `for_json`: nested values stay text, for a JSON output."""
    return pa.schema([(name, _column_type(each, for_json)) for name, each in types.items()])


def json_array(kind: pa.DataType, values: list[Any]) -> pa.Array:
    """The column of these values, all of which fit the type."""
    if kind.equals(JSON):
        texts = [None if value is None else _encode(value).decode() for value in values]
        return pa.ExtensionArray.from_storage(JSON, pa.array(texts, pa.string()))
    return pa.array(values, kind)


def _column_type(json_type: JsonType, for_json: bool) -> pa.DataType:
    is_nested = isinstance(json_type, ListOf | ObjectOf)
    return JSON if (is_nested and for_json) or _has_empty_object(json_type) else _type(json_type)


def _type(json_type: JsonType) -> pa.DataType:
    """The Arrow type. For only nulls it is string: few readers accept columns without a type."""
    if isinstance(json_type, ListOf):
        return pa.list_(pa.field("element", _type(json_type.element)))
    if isinstance(json_type, ObjectOf):
        return pa.struct([(key, _type(field)) for key, field in json_type.fields.items()])
    return _ARROW[json_type] if json_type is not None else pa.string()


def _has_empty_object(json_type: JsonType) -> bool:
    """Whether all objects at some place are empty: Parquet has no structs without fields."""
    if isinstance(json_type, ListOf):
        return _has_empty_object(json_type.element)
    if isinstance(json_type, ObjectOf):
        return not json_type.fields or any(map(_has_empty_object, json_type.fields.values()))
    return False
