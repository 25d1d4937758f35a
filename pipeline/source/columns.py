"""Checks the columns that a job uses against the input; builds the schema of the kept columns."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from msgspec.structs import replace

from pipeline.errors import InputError, UsageError
from pipeline.source.files import InputFile, InputSpec
from pipeline.source.formats.parquet import file_schema, open_parquet
from pipeline.source.types.json_columns import arrow_schema
from pipeline.source.types.json_types import JsonType
from pipeline.source.types.plain import plain_schema
from pipeline.source.types.values import is_text
from pipeline.text import did_you_mean, printable, reason, shown


def json_schema(spec: InputSpec, types: dict[str, JsonType], keys: set[str]) -> pa.Schema:
    if keys or types:  # JSON without readable rows shows no columns to check against
        require_columns(spec, shown(spec.path), [*types, *sorted(keys - types.keys())])
    needed = [name for name in spec.fields if name not in spec.optional]
    used_names = [spec.text, *([] if spec.id is None else [spec.id]), *needed, *(spec.keep or ())]
    for name in used_names:
        types.setdefault(name, None)
    return arrow_schema(types, for_json=spec.for_json)


def parquet_schema(spec: InputSpec, files: tuple[InputFile, ...]) -> pa.Schema:
    schemas = []
    for file in files:
        with open_parquet(file) as parquet:
            for name, kind in parquet.unread.items():
                if spec.keep is None or name in {spec.text, spec.id, *spec.keep, *spec.fields}:
                    raise InputError(
                        f"{file.name}: column `{printable(name)}` is a {kind}, which cannot be "
                        "read",
                        hint="name the columns to carry with --keep",
                    )
            schemas.append(file_schema(file, parquet))
        names = schemas[-1].names
        if len(set(names)) < len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{file.name}: two columns are named `{printable(duplicate)}`")
        require_columns(spec if len(files) == 1 else replace(spec, keep=()), file.name, names)
    place = shown(spec.path)
    try:
        unified = pa.unify_schemas(_unifiable(schemas), promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"{place}: the files' columns differ ({reason(error)})") from None
    require_columns(spec, place, unified.names)
    text = unified.field(spec.text).type
    if not is_text(text) and not pa.types.is_null(text):
        raise UsageError(f"{place}: input.text = `{spec.text}` is {text}, not string")
    if spec.id is not None and pa.types.is_nested(unified.field(spec.id).type):
        kind = unified.field(spec.id).type
        raise UsageError(f"{place}: input.id = `{spec.id}` is {kind}, which cannot identify rows")
    shared = set.intersection(*(set((each.metadata or {}).items()) for each in schemas))
    metadata = {k: v for k, v in (schemas[0].metadata or {}).items() if (k, v) in shared}
    return plain_schema(unified).with_metadata(metadata or None)


def _unifiable(schemas: Sequence[pa.Schema]) -> list[pa.Schema]:
    """The schemas, with dictionaries decoded where files differ, since Arrow cannot unify those."""
    kinds: dict[str, set[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            kinds.setdefault(field.name, set()).add(field.type)
    return [
        pa.schema(
            field.with_type(field.type.value_type)
            if pa.types.is_dictionary(field.type) and len(kinds[field.name]) > 1
            else field
            for field in schema
        )
        for schema in schemas
    ]


FLAGS = {"input.text": "--text COLUMN", "input.id": "--id COLUMN", "input.keep": "--keep COLUMN"}
"""The command-line option that selects another column, by key."""


def require_columns(spec: InputSpec, place: str, names: Sequence[str]) -> None:
    """Checks that the input has every column the job names. Raises: UsageError."""
    required = [("input.text", spec.text), *(("input.keep", name) for name in spec.keep or ())]
    if spec.id is not None:
        required.insert(0, ("input.id", spec.id))
    readers = "the prompt, a prefix or a rule"
    required += [(readers, name) for name in spec.fields if name not in spec.optional]
    missing = [(key, name) for key, name in required if name not in names]
    if missing:
        columns = ", ".join(f"`{printable(column, 60)}`" for column in names[:50]) or "none"
        first, *others = (
            f"{place}: column `{printable(name)}` ({key}) not found{did_you_mean(name, names)}"
            for key, name in missing
        )
        error = UsageError(f"{first}; columns: {columns}", hint=FLAGS.get(missing[0][0]))
        error.more = tuple(others[:20])
        raise error


def carried_schema(spec: InputSpec, described: pa.Schema) -> pa.Schema:
    carried = [field for field in described if spec.keep is None or field.name in spec.keep]
    if spec.id is not None and all(field.name != spec.id for field in carried):
        carried.insert(0, described.field(spec.id))
    return pa.schema(carried, None if spec.for_json else described.metadata)
