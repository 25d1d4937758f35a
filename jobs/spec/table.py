"""The table of the job file's keys, made from the fields of its records.

A field declares `size: Annotated[int, Key("tokens per chunk", least=1)] = 256`, and nothing else
names the key. The check of the file, flags, `--set`, "did you mean", `--help` and docs/job-file.md
read the table that `keys_of` makes; `assemble` makes the records from the values of a file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields, replace

from jobs.secrets import Reference

Type = Literal[
    "string",
    "text",
    "slug",
    "integer",
    "number",
    "boolean",
    "strings",
    "scalar",
    "reference",
    "time",
    "string or reference",
    "table of strings or references",
]
LARGEST_NUMBER = 10**12

_TYPES: dict[object, Type] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    tuple[str, ...]: "strings",
    bool | int | str: "scalar",
    Reference: "reference",
    str | Reference: "string or reference",
    dict[str, str | Reference]: "table of strings or references",
}
"""The job file's names for the types of the records' fields."""


class Key(Struct, frozen=True):
    """One key of the job file. Bounds are inclusive, except `above`.

    A field declares only what its name, type and default do not express; `keys_of` adds the rest.
    """

    meaning: str
    name: str = ""
    """With its sections; declared at a field only if it differs from the field's name."""
    type: Type | None = None
    """Declared at a field only if the Python type does not determine it: `slug`, `time`, and `text`
    for one that is sent, which may have several lines."""
    default: Any = None
    least: float = 0
    most: float = LARGEST_NUMBER
    above: float | None = None
    choices: Collection[str] = ()
    """The allowed values. A dict counts by its keys at the time a job is read; it is not copied."""
    later: tuple[str, ...] = ()
    group: str | None = None
    """Entry points of this group are allowed, too."""
    flag: str = ""
    """The command-line option that sets it; empty: only `--set` does."""
    short: str = ""
    metavar: str | None = None
    help: str = ""
    """The flag's text in `--help`; for a key with choices the noun in front of them."""
    may_be_empty: bool = False
    is_filled_in: bool = False
    """A field without a default whose value follows from other keys or the file's name."""
    is_required: bool = False

    @property
    def section(self) -> str:
        """The table of the key in the file, such as `endpoint`; empty at the top level."""
        return self.name.partition(".")[0] if "." in self.name else ""

    def takes(self) -> str:
        """The accepted values, for a reference: `integer, at least 1`."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type == "time":
            return "time of day"
        if self.type == "text":
            return "string"
        if self.type == "scalar":
            return "boolean, integer or string"
        bounded = self.type in ("integer", "number")
        return f"{self.type}, {self.bound()}" if bounded else str(self.type)

    def bound(self) -> str:
        """The bound in words."""
        most = f"{self.most:,.15g}"
        if self.above is not None:
            at_most = f" and at most {most}" if self.most < LARGEST_NUMBER else ""
            return f"more than {self.above:g}{at_most}"
        if self.most < LARGEST_NUMBER:
            return f"between {self.least:g} and {most}"
        return f"at least {self.least:g}"


class Table(Struct, frozen=True):
    """The declaration at a field that is a table of the job file, or a list of tables."""

    name: str = ""
    """In the job file, if it differs from the field's name."""
    max_tables: int = 0
    """Of a list: its maximum length."""
    keys: Mapping[str, Key] = {}
    """By field, the keys of a record that the engine defines, without knowledge of a job file."""


NO_TABLE = Table()


class _Field(NamedTuple):
    """A field of a record: a key, a table with its own record, or neither."""

    name: str
    """In the record."""
    file_name: str
    """In the job file."""
    key: Key | None
    record: type[Struct] | None
    table: Table
    is_list: bool
    is_optional: bool


def keys_of(record: type[Struct], prefix: str = "", table: Table = NO_TABLE) -> Iterator[Key]:
    """Every key of a record and of the records in it, in the order of the fields."""
    for field in _fields(record, table):
        if field.key is not None:
            yield replace(field.key, name=prefix + field.file_name)
        elif field.record is not None:
            yield from keys_of(field.record, f"{prefix}{field.file_name}.", field.table)


def lists_of(record: type[Struct]) -> dict[str, int]:
    """The lists of tables that a job file may hold, with their maximum lengths."""
    return {f.file_name: f.table.max_tables for f in _fields(record, NO_TABLE) if f.is_list}


R = TypeVar("R", bound=Struct)


def assemble(
    record: type[R],
    values: Mapping[str, Any],
    lists: Mapping[str, Sequence[str]],
    prefix: str = "",
    table: Table = NO_TABLE,
) -> R:
    """The record made of the values by full key; a field without a value has its default.

    `lists` has the prefixes of each list's tables: `endpoint`, or `endpoint.NAME` for each.
    """
    arguments: dict[str, Any] = {}
    for field in _fields(record, table):
        name = prefix + field.file_name
        if field.record is None:
            if name in values:
                arguments[field.name] = values[name]
        elif field.is_list:
            arguments[field.name] = tuple(
                assemble(field.record, values, lists, f"{table_prefix}.", field.table)
                for table_prefix in lists[name]
            )
        elif not field.is_optional or any(key.startswith(f"{name}.") for key in values):
            arguments[field.name] = assemble(field.record, values, lists, f"{name}.", field.table)
    return record(**arguments)


def _fields(record: type[Struct], table: Table) -> list[_Field]:
    all_fields = []
    for name, annotation, default in _declarations(record):
        type_, metadata = annotation, None
        if get_origin(annotation) is Annotated:
            type_, metadata = get_args(annotation)[:2]
        metadata = table.keys.get(name, metadata)
        is_optional, type_ = _without_none(type_)
        is_list = get_origin(type_) is tuple and isinstance(get_args(type_)[0], type(Struct))
        inner = get_args(type_)[0] if is_list else type_
        is_record = isinstance(inner, type(Struct)) and not isinstance(metadata, Key)
        all_fields.append(
            _Field(
                name,
                (metadata.name if isinstance(metadata, Key | Table) else "") or name,
                _with_field(metadata, type_, default) if isinstance(metadata, Key) else None,
                inner if is_record else None,
                metadata if isinstance(metadata, Table) else NO_TABLE,
                is_list,
                is_optional,
            )
        )
    return all_fields


@cache
def _declarations(record: type[Struct]) -> tuple[tuple[str, Any, Any], ...]:
    """Name, annotation and default of each field."""
    return tuple(
        (field.name, field.type, None if callable(field.default_factory) else field.default)
        for field in fields(record)
    )


def _without_none(annotation: Any) -> tuple[bool, Any]:
    """Whether None is one of the types, and the other types."""
    if get_origin(annotation) not in (Union, UnionType):
        return False, annotation
    others = tuple(type_ for type_ in get_args(annotation) if type_ is not NoneType)
    if len(others) == len(get_args(annotation)):
        return False, annotation
    return True, others[0] if len(others) == 1 else Union[others]  # noqa: UP007


def _with_field(key: Key, type_: Any, default: Any) -> Key:
    """The key with the type, choices and default of its field."""
    is_choice = get_origin(type_) is Literal
    return replace(
        key,
        type=key.type or ("string" if is_choice else _TYPES[type_]),
        choices=key.choices or (get_args(type_) if is_choice else ()),
        default=None if default is NODEFAULT else default,
        is_required=default is NODEFAULT and not key.is_filled_in,
    )


def flag_of(name: str) -> str:
    """The flag of a key: its last part, without a unit of time."""
    return "--" + name.rpartition(".")[2].replace("_", "-").removesuffix("-seconds")
