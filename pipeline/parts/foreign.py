"""Metadata of an input's schema, carried along to a Parquet output without untrue statements.

The output has other columns than the input: some are left out, some are added. What pandas and
Hugging Face datasets say of single columns stays true for the columns that are left. What describes
a whole row to another program (Spark, Avro) does not, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec


def carried_metadata(
    metadata: Mapping[bytes, bytes], columns: Collection[str], described: Collection[str]
) -> dict[bytes, bytes]:
    """What of this metadata holds for an output with `columns`; `described` are names of columns by
    which a description of rows is known."""
    carried = {}
    for key, value in metadata.items():
        if key.startswith((b"ARROW:", b"textmill.")):
            continue
        content = _json(value)
        if key in _ADAPTED and isinstance(content, dict):
            if (adapted := _ADAPTED[key](content, columns)) is not None:
                carried[key] = msgspec.json.encode(adapted)
        elif not isinstance(content, dict | list) or not _names_any(content, set(described)):
            carried[key] = value
    return carried


def _of_pandas(content: dict[str, Any], columns: Collection[str]) -> dict[str, Any] | None:
    """Without the columns that are gone, and without an index that counts rows."""
    described, index = content.get("columns"), content.get("index_columns")
    if not isinstance(described, list) or not isinstance(index, list):
        return None
    left = [each for each in described if isinstance(each, dict) and _field(each) in columns]
    names = [name for name in index if isinstance(name, str) and name in columns]
    return content | {"columns": left, "index_columns": names}


def _field(column: dict[str, Any]) -> Any:
    return column.get("field_name") or column.get("name")


def _of_datasets(content: dict[str, Any], columns: Collection[str]) -> dict[str, Any] | None:
    """The features of the columns that are left; sizes and splits describe the input."""
    info = content.get("info")
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(features, dict):
        return None
    return {"info": {"features": {k: v for k, v in features.items() if k in columns}}}


_ADAPTED: dict[bytes, Callable[[dict[str, Any], Collection[str]], dict[str, Any] | None]] = {
    b"pandas": _of_pandas,
    b"huggingface": _of_datasets,
}


def _json(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _names_any(content: Any, names: set[str]) -> bool:
    """Whether it has one of these names as a key or a text, at any depth."""
    if isinstance(content, list):
        return any(_names_any(each, names) for each in content)
    if not isinstance(content, dict):
        return isinstance(content, str) and content in names
    return not names.isdisjoint(content) or any(_names_any(v, names) for v in content.values())
