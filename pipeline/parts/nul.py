"""U+0000 in text columns: Parquet and JSON hold it, PostgreSQL and others refuse it.

It is kept unless the job asks for another character: a text must not change on its way without a
word. The replacement is one character as well, so that spans still hold.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

REPLACEMENT = "\ufffd"
_ESCAPED = re.compile(r"\\\\|\\u0000")
"""In JSON text: an escaped backslash, which may stand before `u0000`, or U+0000."""


def without_nul(table: pa.Table) -> pa.Table:
    """The table with U+FFFD in place of U+0000, in texts at any depth and in JSON columns."""
    columns = [_replaced(column.combine_chunks()) for column in table.columns]
    return pa.Table.from_arrays(columns, table.schema.names)


def _replaced(array: pa.Array) -> pa.Array:
    kind, types = array.type, pa.types
    if types.is_string(kind) or types.is_large_string(kind):
        return pc.replace_substring(array, "\0", REPLACEMENT)
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json":
        texts = [text and _ESCAPED.sub(_character, text) for text in array.storage.to_pylist()]
        return pa.ExtensionArray.from_storage(kind, pa.array(texts, kind.storage_type))
    if types.is_struct(kind):
        children = [_replaced(array.field(at)) for at in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if types.is_map(kind):
        keys, items = _replaced(array.keys), _replaced(array.items)
        offsets = array.offsets
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=_nulls(array))
    if types.is_list(kind) or types.is_large_list(kind):
        make = pa.ListArray if types.is_list(kind) else pa.LargeListArray
        return make.from_arrays(
            array.offsets, _replaced(array.values), type=kind, mask=_nulls(array)
        )
    return array


def _nulls(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _character(found: re.Match[str]) -> str:
    return found[0] if found[0] == r"\\" else REPLACEMENT
