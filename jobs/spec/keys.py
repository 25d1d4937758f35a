"""Checks of the values of a job file against its keys: types, bounds, names, suggestions.

Ignoring a misspelt key would cost more than refusing it, because a job runs unattended and pays.
Every error names the place, the value and the bound, and passes through `mask`, so that no text
that looks like a credential is repeated.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from msgspec import Struct

from jobs.secrets import mask
from jobs.spec.references import CONTROL, reference, text_or_reference, texts_or_references
from jobs.spec.table import LARGEST_NUMBER, Key
from pipeline.errors import UsageError
from pipeline.text import did_you_mean, nearest, printable

NOT_YET = "is not supported yet in this version"
MAX_LINES = 20
"""Errors of a file that are shown at once."""
_LONGEST_STRING = 100_000
_DEEPEST_PARAMETER = 10
_SLUG = re.compile(r"[^\W_][\w-]{0,63}")
_OWNED = {"input", "inputs", "model", "messages", "n"}
_FIXED = {"stream": ("false",), "encoding_format": ('"base64"', '"float"')}
"""Parameters of which only these values give answers that can be read."""
_CREDENTIALS = {"api_key", "apikey", "api_token", "access_token", "authorization", "headers",
                "password", "secret"}  # fmt: skip


class KeyLocations(Struct, frozen=True):
    """The place of each value, for errors."""

    file: str
    typed: dict[str, str]
    """The addresses of keys on the command line: `--set chunk.size`."""

    def on_command_line(self, key: str) -> str | None:
        """The address of a key, or of the table around it, on the command line."""
        while key:
            if key in self.typed:
                return self.typed[key]
            key = key.rpartition(".")[0]
        return None

    def refuse(self, problem: str, *keys: str, hint: str | None = None) -> UsageError:
        """The error, at the first of the keys on the command line, or else at the file."""
        typed = [address for key in keys if (address := self.on_command_line(key))]
        return UsageError(mask(f"{typed[0] if typed else self.file}: {problem}"), hint=hint)

    def wrong(self, key: str, problem: str, hint: str | None = None) -> UsageError:
        """The error about the value of one key, which is named once."""
        text = problem if self.on_command_line(key) else f"{key_name(key)} {problem}"
        return self.refuse(text, key, hint=hint)

    def unknown(self, key: str, keys: Sequence[Key]) -> UsageError:
        """The error about an unknown key, with the nearest known one, or those of its section."""
        section, _, last = key.rpartition(".")
        start = f"{section}." if section else ""
        # Sections, too: `[gard]` is a typing error like `sise`.
        inside = [k.name[len(start) :] for k in keys if k.name.startswith(start)]
        names = list(dict.fromkeys(name.partition(".")[0] for name in inside))
        near = nearest(last, names)
        anywhere = {k.name.rpartition(".")[2]: k.name for k in keys}
        near = near or anywhere.get(nearest(last, anywhere), "")
        meant = f" (did you mean `{near}`?)" if near else ""
        is_listed = start and names and not near
        hint = f"keys of [{key_name(section)}]: {', '.join(names)}" if is_listed else None
        return self.refuse(f"unknown key `{key_name(key)}`{meant}", key, hint=hint)


def shown(value: object) -> str:
    """A value in job file syntax, short and without secrets; a table only by its type."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{printable(mask(value), 60)}"'
        case int() if abs(value) >= 10**18:
            return "a number of more than 18 digits"
        case int() | float():
            return f"{value:,}" if value == value else "nan"
        case dict():
            return "a table"
        case list():
            return "a list"
    return "a date or time"


def read_toml(text: str, address: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises: UsageError with the line, but without its content."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = f"{address}: nested too deeply"
    except ValueError as error:
        # The parser's message can quote the text, including a secret.
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        where = f"column {at[2]}" if at else "the end"
        problem = f"{address}:{line}: not TOML, at {where}"
        if re.match("Cannot (overwrite|declare)|Duplicate", str(error)):
            written = re.match(r"\s*\[*\s*([\w.-]+)", text.split("\n")[line - 1])
            name = f"`{printable(mask(written[1]), 80)}`" if written else "a key"
            problem = f"{address}:{line}: {name} is set twice"
    raise UsageError(problem)


def read_value(raw: str, type_: str, key: str, locations: KeyLocations) -> object:
    """The value of a command-line text for a key of this type; a bare word is a string."""
    quoted = raw[:1] in ('"', "'")
    if type_ in ("string", "text", "slug") and not quoted:
        return raw
    if type_ == "strings" and raw[:1] != "[":
        return [name.strip() for name in raw.split(",")]
    tree: dict[str, Any] = {}
    try:
        tree = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        if not quoted and raw[:1] not in ("[", "{"):
            return raw
    if list(tree) != ["value"]:
        raise locations.wrong(key, "is not a TOML value")
    return tree["value"]


class Checked(NamedTuple):
    """What a check of all keys found. Both are in the order of the file."""

    values: dict[str, Any]
    """By full key, and `parameters` as a table; no default is filled in."""
    errors: dict[str, UsageError]
    """By full key. A later check adds its own."""
    order: Sequence[str]
    """Every key of the file."""
    has_unknown: bool

    def raise_errors(self) -> None:
        """Raises: UsageError with a line for each error, in the order of the file."""
        if self.errors:
            places = {name: at for at, name in enumerate(self.order)}
            names = sorted(self.errors, key=lambda name: places.get(name, len(places)))
            raise all_of([self.errors[name] for name in names])


def all_of(errors: Sequence[UsageError]) -> UsageError:
    """One error with the lines of all, and the first hint among them."""
    first, *others = errors
    first.more = tuple(str(error) for error in others[: MAX_LINES - 1])
    if len(errors) > MAX_LINES:
        first.more += (f"{len(errors) - MAX_LINES:,} more errors",)
    first.hint = next((error.hint for error in errors if error.hint), None)
    return first


def check(
    tree: dict[str, Any], keys: Sequence[Key], later: frozenset[str], locations: KeyLocations
) -> Checked:
    """The values of a file, and every key that is unknown, not supported yet, of a wrong type or
    out of bounds."""
    known = {key.name: key for key in keys}
    sections = {name[:at] for name in known for at in range(len(name)) if name[at] == "."}
    values: dict[str, Any] = {"parameters": {}}
    errors: dict[str, UsageError] = {}
    order: list[str] = []
    unknown_keys: set[str] = set()

    def check_one(name: str, value: object) -> None:
        if name in later:
            raise locations.refuse(f"`[{name}]` {NOT_YET}", name)
        if name in sections and not isinstance(value, dict):
            raise locations.wrong(name, f"must be a table, got {_safe(name, value)}")
        if name.startswith("parameters."):
            _check_parameter(name, value, known["parameters.prompt"], locations)
        elif name in known:
            values[name] = check_value(known[name], value, locations)
        elif name not in sections:
            unknown_keys.add(name)
            raise locations.unknown(name, keys)

    def walk(table: dict[str, Any], prefix: str) -> None:
        for last, value in table.items():
            is_parameter = prefix == "parameters."
            name = f'{prefix}"{last}"' if "." in last and not is_parameter else f"{prefix}{last}"
            order.append(name)
            try:
                check_one(name, value)
            except UsageError as error:
                errors[name] = error
                continue
            if name == "parameters":
                values[name] = value
            if name in sections:
                walk(value, f"{name}.")

    walk(tree, "")
    return Checked(values, errors, order, bool(unknown_keys))


def check_value(key: Key, value: Any, locations: KeyLocations) -> Any:
    """The value, in the type that the record holds."""

    def wrong(problem: str) -> UsageError:
        return locations.wrong(key.name, f"{problem}, got {_safe(key.name, value)}")

    number = isinstance(value, int | float) and not isinstance(value, bool)
    match key.type:
        case "integer" | "number":
            if not number or (key.type == "integer" and isinstance(value, float)):
                raise wrong(f"must be {'an integer' if key.type == 'integer' else 'a number'}")
            if not -math.inf < value < math.inf:
                raise wrong("must be a finite number")
            low = value <= key.above if key.above is not None else value < key.least
            if value > key.most == LARGEST_NUMBER:
                raise wrong(f"must be at most {LARGEST_NUMBER:,}")
            if low or value > key.most:
                raise wrong(f"must be {key.bound()}")
            return float(value) if key.type == "number" else value
        case "boolean":
            if not isinstance(value, bool):
                raise wrong("must be true or false")
            return value
        case "strings":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise wrong("must be a list of strings")
            for name in value:
                _check_string(key, name, locations)
            if len(set(value)) < len(value):
                noun = "an endpoint" if key.name.endswith(".endpoints") else "a column"
                raise locations.wrong(key.name, f"names {noun} twice")
            return tuple(value)
        case "scalar":
            if not isinstance(value, bool | int | str):
                raise wrong("must be a boolean, an integer or a string")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise wrong("must fit in 64 bits")
            if isinstance(value, str) and len(value) > _LONGEST_STRING:
                raise locations.wrong(key.name, f"must be at most {_LONGEST_STRING:,} characters")
            if isinstance(value, str) and CONTROL.search(value):
                raise wrong("must not hold control characters")
            return value
        case "reference":
            return reference(key.name, value, locations.wrong)
        case "string or reference":
            return text_or_reference(key.name, value, locations.wrong)
        case "table of strings or references":
            return texts_or_references(key.name, value, locations.wrong)
        case "time":
            return _time(value, wrong)
    if not isinstance(value, str):
        raise wrong("must be a string")
    _check_string(key, value, locations)
    return value


def _time(value: object, wrong: Callable[[str], UsageError]) -> str | None:
    """A time of day in ISO 8601; None for an empty text."""
    if value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"\d\d:\d\d(:\d\d)?", value):
        with suppress(ValueError):
            value = dt.time.fromisoformat(value)
    if not isinstance(value, dt.time):
        raise wrong('must be a time of day such as "06:00"')
    return value.isoformat("auto" if value.second else "minutes")


def _check_string(key: Key, value: str, locations: KeyLocations) -> None:
    if key.choices and value not in key.choices and not _is_plugged_in(key, value):
        if value in key.later:
            raise locations.refuse(f'{key.name} = "{value}" {NOT_YET}', key.name)
        meant = did_you_mean(value, key.choices)
        listed = ", ".join(key.choices)
        raise locations.wrong(key.name, f"must be one of {listed}, got {shown(value)}{meant}")
    if not value.strip() and not key.may_be_empty:
        raise locations.wrong(key.name, "must not be empty")
    if len(value) > _LONGEST_STRING:
        raise locations.wrong(key.name, f"must be at most {_LONGEST_STRING:,} characters")
    text = re.sub(r"[\t\n\r]", "", value) if key.type == "text" else value
    if re.search("[\ud800-\udfff]", text):  # half a pair stands for a byte of a file name
        raise locations.wrong(key.name, f"must be UTF-8, got {_safe(key.name, value)}")
    if CONTROL.search(text):
        raise locations.wrong(
            key.name, f"must not hold control characters, got {_safe(key.name, value)}"
        )
    if key.type == "slug" and not _SLUG.fullmatch(value):
        raise locations.wrong(
            key.name,
            "must be 1 to 64 letters, digits, `-` or `_`, a letter or digit first, "
            f"got {shown(value)}",
        )


def _is_plugged_in(key: Key, value: str) -> bool:
    from importlib.metadata import entry_points

    return key.group is not None and bool(entry_points(group=key.group, name=value))


def _check_parameter(full: str, value: object, prompt: Key, locations: KeyLocations) -> None:
    """Refuses a parameter that the pipeline sets itself, and values that JSON cannot hold."""
    name = full.removeprefix("parameters.")
    if name == "prompt":
        check_value(prompt, value, locations)
    elif name in _OWNED:
        raise locations.refuse(f"`{key_name(full)}` is set by textmill itself", full)
    elif name.lower().replace("-", "_") in _CREDENTIALS:
        raise locations.refuse(
            f"`{key_name(full)}` must not hold a credential",
            full,
            hint="use endpoint.api_key",
        )
    elif CONTROL.search(name):
        raise locations.refuse(f"`{key_name(full)}` must not hold control characters", full)
    elif name in _FIXED and (got := json.dumps(value, default=str)) not in _FIXED[name]:
        raise locations.wrong(full, f"must be {' or '.join(_FIXED[name])}, got {got}")
    for where, problem in _not_json(full, value, _DEEPEST_PARAMETER):
        raise locations.wrong(where, problem)


def _not_json(name: str, value: object, depth: int) -> Iterator[tuple[str, str]]:
    """The values that cannot be sent, with the problem."""
    match value:
        case dict() | list() if depth == 0:
            yield name, f"must not be nested deeper than {_DEEPEST_PARAMETER}"
        case dict():
            for key, child in value.items():
                yield from _not_json(f"{name}.{key}", child, depth - 1)
        case list():
            for child in value:
                yield from _not_json(name, child, depth - 1)
        case bool():
            pass
        case int():
            if not -(2**63) <= value < 2**63:
                yield name, "must fit in 64 bits"
        case float():
            if not math.isfinite(value):
                yield name, f"must be a finite number, got {shown(value)}"
        case str():
            if re.search("[\ud800-\udfff]", value):
                yield name, "must be Unicode text"
        case _:
            types = "must be text, a number, true, false, a list or a table"
            yield name, f"{types}, got {shown(value)}"


def key_name(key: str) -> str:
    return printable(mask(key), 80)


def _safe(key: str, value: object) -> str:
    """The value for an error, or only its type if it may contain a credential."""
    private = "api_key" in key or "url" in key or "proxy" in key
    return "a string" if private and isinstance(value, str) else shown(value)
