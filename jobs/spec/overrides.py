"""The tree of a job file: its lists of tables by name, and the overrides of the command line.

If a job has one `[[endpoint]]`, its keys are `endpoint.url`; if it has several,
`endpoint.NAME.url`, in errors and with `--set`. The same applies to `[[rule]]`, by number. The
check of keys therefore needs no lists: the tree holds plain tables, and `spread` has a key for
each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from msgspec.structs import replace

from jobs.spec.job import KEY, KEYS, LATER, LISTS
from jobs.spec.keys import KeyLocations, check_value, key_name, read_value
from jobs.spec.table import Key
from pipeline.errors import UsageError
from pipeline.text import did_you_mean

_TABLE = "table of strings or references"

Names = Mapping[str, tuple[str, ...]]
"""For each list the names of its tables; empty if there is only one table."""


def by_name(tree: dict[str, Any], locations: KeyLocations) -> Names:
    """Turns the tree's lists into tables, and returns their names.

    Raises: UsageError for a value that is not a list of tables, and for a repeated name.
    """
    return {name: _tables(tree, name, locations) for name in LISTS}


def prefixes(name: str, names: Names) -> list[str]:
    """The key prefixes of a list's tables: `endpoint`, or `endpoint.NAME` for each."""
    return [f"{name}.{table}" for table in names[name]] or [name]


def spread(names: Names) -> tuple[Key, ...]:
    """The table of keys, with the keys of a list once for each of its tables."""
    all_keys: list[Key] = []
    for section, group in groupby(KEYS, key=lambda key: key.section):
        keys = list(group)
        if not names.get(section):
            all_keys += keys
            continue
        for prefix in prefixes(section, names):
            all_keys += [replace(key, name=prefix + key.name[len(section) :]) for key in keys]
    return tuple(all_keys)


def override(
    tree: dict[str, Any], key: str, value: object, place: str, names: Names, locations: KeyLocations
) -> None:
    """Sets one key of the tree from the command line: `--set` as TOML, a flag literally."""
    parts = _key_parts(tree, key, place, names, locations)
    full = ".".join(parts)
    keys = spread(names)
    types = {known.name: known.type for known in keys}
    sections = {full for name in types if name.startswith(full + ".")}
    around, above = types.get(".".join(parts[:-1])), types.get(".".join(parts[:-2]))
    in_table = around == _TABLE
    refers = around in ("reference", "string or reference") or (above == _TABLE and not in_table)
    reference = refers and parts[-1] in ("env", "file")
    free = parts[0] == "parameters" and all(parts) and len(parts) < 10
    free |= in_table and bool(parts[-1])
    later = any(full == name or full.startswith(name + ".") for name in LATER)
    locations.typed[full] = place
    if not (full in types or sections or reference or free or later):
        raise locations.unknown(full, keys)
    is_text = types.get(full) in ("string", "text", "slug")
    if isinstance(value, str) and not (is_text and not place.startswith("--set")):
        is_word = reference or (in_table and value[:1] != "{")  # a version 1.10 is no number
        type_ = "string" if is_word else types.get(full) or "any"
        value = read_value(value, type_, full, locations)
    if reference:
        value = {parts.pop(): value}
    node = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise locations.refuse(f"`{part}` is not a table", full)
    node[parts[-1]] = value


def _tables(tree: dict[str, Any], name: str, locations: KeyLocations) -> tuple[str, ...]:
    tables = tree.get(name, [])
    if isinstance(tables, dict):
        raise locations.refuse(f"`{name}` is a list, write [[{name}]] instead of [{name}]")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise locations.refuse(f"`{name}` must be a table, written [[{name}]]")
    if len(tables) > LISTS[name]:
        raise locations.refuse(f"{len(tables):,} [[{name}]] are more than {LISTS[name]:,}")
    if len(tables) < 2:
        if tables or name == "endpoint":
            tree[name] = tables[0] if tables else {}
        else:
            tree.pop(name, None)
        return ()
    by_name: dict[str, dict[str, Any]] = {}
    for at, table in enumerate(tables, 1):
        table_name = _endpoint_name(table, at, locations) if name == "endpoint" else str(at)
        if table_name in by_name:
            raise locations.refuse(
                f"two [[endpoint]] have the name `{key_name(table_name)}`",
                hint="give each its own name: name = ...",
            )
        by_name[table_name] = table
    tree[name] = by_name
    return tuple(by_name)


def _endpoint_name(table: dict[str, Any], at: int, locations: KeyLocations) -> str:
    last = "name" if "name" in table else "kind"
    key = replace(KEY[f"endpoint.{last}"], name=f"endpoint.{at}.{last}")
    if last not in table:
        hint = f'kind = "{next(iter(key.choices))}"'
        raise locations.refuse(f"`{key.name}` is missing", hint=hint)
    try:
        return str(check_value(key, table[last], locations))
    except UsageError:  # the check of all keys reports it, under this number
        return str(at)


def _key_parts(
    tree: dict[str, Any], key: str, place: str, names: Names, locations: KeyLocations
) -> list[str]:
    """The parts of a key, with the name of its table exactly if there are several.

    Raises: UsageError for a key without a table name, and for an unknown name.
    """
    parts = key.split(".")
    name = parts[0]
    if name not in LISTS:
        return parts
    own_keys = _own_keys(name, KEYS)
    if not names[name]:
        table = tree.get(name)
        only: object = "1"
        if name == "endpoint":
            only = table.get("name", table.get("kind")) if isinstance(table, dict) else ""
        if len(parts) > 2 and parts[1] not in own_keys and parts[1] == only:
            del parts[1]
        return parts
    if len(parts) > 1 and parts[1] in names[name] and (len(parts) > 2 or parts[1] not in own_keys):
        if parts[2:] == ["name"]:
            locations.typed[key] = place
            raise locations.wrong(key, "endpoints can be named only in the file")
        return parts
    locations.typed[key] = place
    listed = ", ".join(names[name][:10]) + (", ..." if len(names[name]) > 10 else "")
    if len(parts) > 1 and parts[1] not in own_keys:
        meant = did_you_mean(parts[1], names[name])
        raise locations.refuse(f"no {name} has the name `{key_name(parts[1])}`{meant}", key)
    number, rest = "NAME" if name == "endpoint" else "NUMBER", "".join(f".{p}" for p in parts[1:])
    raise locations.refuse(
        f"the job has {len(names[name])} {name}s, "
        f"`--set {name}.{number}{rest or '.KEY'}=VALUE` sets one",
        key,
        hint=f"{number} is one of {key_name(listed)}",
    )


def _own_keys(name: str, keys: Iterable[Key]) -> set[str]:
    """The first parts of the keys in a list's tables."""
    return {known.name.split(".")[1] for known in keys if known.name.startswith(f"{name}.")}
