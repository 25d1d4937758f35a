"""The types of JSON columns, inferred row by row.

JSON declares no types, and pyarrow's own inference fails on real files: one late key or one mixed
column fails a whole block, and date-like strings become timestamps. Here a row that does not fit
gets an error of its own and its neighbours are unaffected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_KEYS = 10_000
"""Different keys per object; an object used as a map would otherwise add a column with each row."""


class ListOf(NamedTuple):
    element: JsonType


class ObjectOf(NamedTuple):
    fields: Mapping[str, JsonType]


JsonType = str | ListOf | ObjectOf | None  # a name out of _SCALARS; None: only nulls so far

_SCALARS: dict[type, str] = {bool: "boolean", int: "integer", float: "float", str: "string"}
INTEGERS = ("integer", "signed", "unsigned")
"""Of 63 bits and none negative; some negative; some of 64 bits and none negative."""


_JSON_NAMES: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


def json_name(value: Any) -> str:
    """The JSON name of the type of `value`."""
    return _JSON_NAMES[type(value)]


class Misfit(Exception):
    """A value that does not fit its column; `path` leads to it, outermost key first."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"`{'.'.join(self.path[:8])[:200]}` {self.problem}"


def widen(current: JsonType, value: Any) -> JsonType:
    """The type that holds `value` and all that `current` holds; `current` itself where nothing
    changes.

    Invariant: a type changes only among integers and from them to float; keys and element types
    are merged.
    Raises: Misfit.
    """
    if value is None:
        return current
    kind = _SCALARS.get(type(value))
    if kind is not None:
        if kind == "integer":
            is_usual = current == kind and 0 <= value < 2**63
            return current if is_usual else _widen_integer(current, value)
        if current is None or current == kind:
            return kind if current is None else current
        if kind == "float" and current in INTEGERS:
            return kind
        raise Misfit(f"must be {_name(current)}, as in the rows before, got {kind}")
    if isinstance(value, list):
        if current is not None and not isinstance(current, ListOf):
            raise Misfit(f"must be {_name(current)}, as in the rows before, got list")
        element = current.element if current is not None else None
        for item in value:
            try:
                element = widen(element, item)
            except Misfit as misfit:
                misfit.path.insert(0, "[]")
                raise
        return current if current is not None and element is current.element else ListOf(element)
    if current is not None and not isinstance(current, ObjectOf):
        raise Misfit(f"must be {_name(current)}, as in the rows before, got object")
    fields = current.fields if current is not None else {}
    changes = type_changes(fields, value)
    return current if current is not None and not changes else ObjectOf({**fields, **changes})


def _widen_integer(current: JsonType, value: int) -> JsonType:
    if not -(2**63) <= value < 2**64:
        raise Misfit("is an integer beyond 64 bits")
    kind = "signed" if value < 0 else "unsigned" if value >= 2**63 else "integer"
    if current is None or current == kind:
        return kind if current is None else current
    if current == "float":
        if abs(value) > 2**53:  # where floats have gaps
            raise Misfit("is an integer that its column of floats cannot hold exactly")
        return current
    if current not in INTEGERS:
        raise Misfit(f"must be {_name(current)}, as in the rows before, got integer")
    if "integer" not in (current, kind):
        raise Misfit("does not fit 64 bits together with the rows before: some are negative, some "
                     "above 2^63")  # fmt: skip
    return current if kind == "integer" else kind


def type_changes(fields: Mapping[str, JsonType], row: dict[str, Any]) -> dict[str, JsonType]:
    """The new types of the keys that `row` adds or widens. Raises: Misfit; then nothing changed."""
    changes: dict[str, JsonType] = {}
    for key, value in row.items():
        current = fields.get(key)
        if current == "string" and type(value) is str:
            continue
        try:
            new = widen(current, value)
        except Misfit as misfit:
            misfit.path.insert(0, key)
            raise
        if new is not current or key not in fields:
            changes[key] = new
    if changes and len(fields) + sum(key not in fields for key in changes) > MAX_KEYS:
        too_many_keys = Misfit(f"is a new key after {MAX_KEYS:,} different ones")
        too_many_keys.path.append(next(key for key in changes if key not in fields))
        raise too_many_keys
    return changes


def widens(before: JsonType, after: JsonType) -> bool:
    """Whether an integer type became a float type, at any depth."""
    if isinstance(before, ListOf) and isinstance(after, ListOf):
        return widens(before.element, after.element)
    if isinstance(before, ObjectOf) and isinstance(after, ObjectOf):
        return any(widens(field, after.fields[key]) for key, field in before.fields.items())
    return before in INTEGERS and after == "float"


def _name(current: JsonType) -> str:
    if isinstance(current, str):
        return "integer" if current in INTEGERS else current
    return "list" if isinstance(current, ListOf) else "object"
