"""The tree of a job file: its lists of tables by name, and what the command line sets in it.

Where a job has one `[[endpoint]]`, its keys are called `endpoint.url`; where it has several,
`endpoint.NAME.url`, in errors as with `--set`. The same goes for `[[rule]]`, by number. So the
check of keys needs to know nothing of lists: the tree holds plain tables, and `spread` has a key
for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from msgspec.structs import replace

from jobs.spec.job import KEY, KEYS, LATER, LISTS
from jobs.spec.keys import KeyLocations, check_value, key_name, read_value, unknown
from jobs.spec.table import Key

Names = Mapping[str, tuple[str, ...]]
"""Of each list, the names of its tables; none where there is but one, which needs none."""


def by_name(tree: dict[str, Any], locations: KeyLocations) -> Names:
    """Makes tables of the tree's lists, and returns their names.

    Raises: UsageError for what is no list of tables, and for two endpoints of one name.
    """
    return {name: _tables(tree, name, locations) for name in LISTS}


def prefixes(name: str, names: Names) -> list[str]:
    """How the keys of a list's tables begin: `endpoint`, or `endpoint.NAME` for each."""
    return [f"{name}.{each}" for each in names[name]] or [name]


def spread(names: Names) -> tuple[Key, ...]:
    """The table of keys, with those of a list once for each of its tables."""
    found: list[Key] = []
    for section, group in groupby(KEYS, key=lambda key: key.section):
        keys = list(group)
        if not names.get(section):
            found += keys
            continue
        for prefix in prefixes(section, names):
            found += [replace(key, name=prefix + key.name[len(section) :]) for key in keys]
    return tuple(found)


def override(
    tree: dict[str, Any], key: str, value: object, place: str, names: Names, locations: KeyLocations
) -> None:
    """Sets one key of the tree as the command line says it: --set in TOML, a flag as it stands."""
    parts = _addressed(tree, key, place, names, locations)
    full = ".".join(parts)
    keys = spread(names)
    types = {known.name: known.type for known in keys}
    sections = {full for name in types if name.startswith(full + ".")}
    reference = types.get(full.rpartition(".")[0]) == "reference" and parts[-1] in ("env", "file")
    free = parts[0] == "parameters" and all(parts) and len(parts) < 10
    later = any(full == name or full.startswith(name + ".") for name in LATER)
    locations.typed[full] = place
    if not (full in types or sections or reference or free or later):
        raise locations.unknown(full, keys)
    is_text = types.get(full) in ("string", "slug")
    if isinstance(value, str) and not (is_text and not place.startswith("--set")):
        value = read_value(
            value, "string" if reference else types.get(full) or "any", full, locations
        )
    if reference:
        value = {parts.pop(): value}
    node = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise locations.refuse(f"`{part}` is not a table", full)
    node[parts[-1]] = value


def _tables(tree: dict[str, Any], name: str, locations: KeyLocations) -> tuple[str, ...]:
    tables = tree.pop(name, [])
    if isinstance(tables, dict):
        raise locations.refuse(f"`{name}` is a list, write [[{name}]] instead of [{name}]")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise locations.refuse(f"`{name}` must be a table, written [[{name}]]")
    if len(tables) > LISTS[name]:
        raise locations.refuse(f"{len(tables):,} [[{name}]] are more than {LISTS[name]:,}")
    if len(tables) < 2:
        if tables or name == "endpoint":
            tree[name] = tables[0] if tables else {}
        return ()
    found: dict[str, dict[str, Any]] = {}
    for at, table in enumerate(tables, 1):
        called = _endpoint_name(table, at, locations) if name == "endpoint" else str(at)
        if called in found:
            raise locations.refuse(
                f"two [[endpoint]] are called `{key_name(called)}`",
                hint="give each a name of its own: name = ...",
            )
        found[called] = table
    tree[name] = found
    return tuple(found)


def _endpoint_name(table: dict[str, Any], at: int, locations: KeyLocations) -> str:
    last = "name" if "name" in table else "kind"
    key = replace(KEY[f"endpoint.{last}"], name=f"endpoint.{at}.{last}")
    if last not in table:
        hint = f'kind = "{next(iter(key.choices))}"'
        raise locations.refuse(f"`{key.name}` is missing", hint=hint)
    return str(check_value(key, table[last], locations))


def _addressed(
    tree: dict[str, Any], key: str, place: str, names: Names, locations: KeyLocations
) -> list[str]:
    """The parts of a key, with the name of its table exactly where there are several.

    Raises: UsageError for a key that could be of any of them, and for a name that none has.
    """
    parts = key.split(".")
    name = parts[0]
    if name not in LISTS:
        return parts
    own = _own(name, KEYS)
    if not names[name]:
        table = tree.get(name)
        only: object = "1"
        if name == "endpoint":
            only = table.get("name", table.get("kind")) if isinstance(table, dict) else ""
        if len(parts) > 2 and parts[1] not in own and parts[1] == only:
            del parts[1]
        return parts
    if len(parts) > 1 and parts[1] in names[name] and (len(parts) > 2 or parts[1] not in own):
        if parts[2:] == ["name"]:
            locations.typed[key] = place
            raise locations.wrong(key, "endpoints get their names in the file")
        return parts
    locations.typed[key] = place
    listed = ", ".join(names[name][:10]) + (", ..." if len(names[name]) > 10 else "")
    if len(parts) > 1 and parts[1] not in own:
        meant = unknown(parts[1], names[name])
        raise locations.refuse(f"no {name} is called `{key_name(parts[1])}`{meant}", key)
    number, rest = "NAME" if name == "endpoint" else "NUMBER", "".join(f".{p}" for p in parts[1:])
    raise locations.refuse(
        f"the job has {len(names[name])} {name}s, "
        f"`--set {name}.{number}{rest or '.KEY'}=VALUE` sets one",
        key,
        hint=f"{number} is one of {key_name(listed)}",
    )


def _own(name: str, keys: Iterable[Key]) -> set[str]:
    """The first parts of the keys that a list's tables have."""
    return {known.name.split(".")[1] for known in keys if known.name.startswith(f"{name}.")}
