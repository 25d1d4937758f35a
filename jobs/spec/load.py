"""The job of a TOML file: one frozen `Job`, or one line with the error and its place.

The records and their keys are in `jobs/spec/job.py`. Checks beyond the bounds of one key are in
`jobs/spec/check_job.py` (URLs, secrets, contradictions), `jobs/spec/check_endpoints.py` (across
endpoints and rules) and `jobs/spec/check_paths.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jobs.home import expanded
from jobs.secrets import Reference, mask
from jobs.spec.check_calls import check_headers, check_proxy, check_query, query_of_url
from jobs.spec.check_endpoints import check_replicas, check_routing
from jobs.spec.check_job import check_relations, check_secrets, served_url
from jobs.spec.check_paths import check_paths
from jobs.spec.flags import flag
from jobs.spec.job import KEYS, LATER, LISTS, Job
from jobs.spec.keys import KeyLocations, check, read_toml, shown
from jobs.spec.overrides import Names, by_name, override, prefixes, spread
from jobs.spec.table import Key, assemble
from pipeline.endpoints.kinds import KINDS
from pipeline.errors import UsageError
from pipeline.source.formats.table import format_of
from pipeline.source.stores.table import is_remote
from pipeline.tasks import TASKS
from pipeline.text import did_you_mean, printable

_LARGEST_JOB_BYTES = 1_000_000


def load(
    path_or_template: str | Path,
    overrides: Sequence[tuple[str, str]] = (),
    flags: Mapping[str, object] = {},
    *,
    needs_output: bool = True,
    needs_input: bool = True,
) -> Job:
    """The job of a file, or of a template if there is no such file.

    Flags (None: not set) override the file, `--set` overrides flags, the last `--set` wins.
    Without `needs_output` a missing output is `-`, for commands that write none; the same applies
    to the input.
    Raises: UsageError. No credential is read: see `jobs.secrets.resolve`.
    """
    text, address, folder, stem = _read_source(path_or_template)
    tree = read_toml(text, address)
    locations = KeyLocations(address, {})
    names = by_name(tree, locations)
    typed_by = [
        (key, _plain(value), flag(key)) for key, value in flags.items() if value is not None
    ]
    typed_by += [(key, raw, f"--set {printable(mask(key), 80)}") for key, raw in overrides]
    misfits: dict[str, UsageError] = {}
    for key, value, place in typed_by:
        try:
            override(tree, key, value, place, names, locations)
        except UsageError as error:
            misfits[key] = error
    check_secrets(tree, locations)
    keys = spread(names)
    checked = check(tree, keys, LATER, locations)
    typed = checked.values
    checked.errors.update(misfits)
    if not needs_output:
        typed.setdefault("output.path", "-")
    if not needs_input:
        typed.setdefault("input.path", "-")
    for prefix in prefixes("endpoint", names):
        if f"{prefix}.kind" in typed:
            try:
                _endpoint_defaults({"task": next(iter(TASKS))} | typed, prefix, names, locations)
            except UsageError as error:
                checked.errors.setdefault(f"{prefix}.url", error)
    missing = [key for key in keys if _is_required(key, tree) and key.name not in typed]
    missing.sort(key=lambda key: key.name.endswith(".path"))  # the paths come last
    for absent in missing:
        if not (misfits or checked.has_unknown):  # else it may be there, with a typing error
            checked.errors.setdefault(absent.name, _missing(absent, locations))
    checked.raise_errors()
    values = _with_defaults(typed, names, locations, stem) | {"address": address, "folder": folder}
    for name in ("input.path", "output.path"):
        values[name] = _resolve_path(typed[name], "" if locations.on_command_line(name) else folder)
    lists = {name: prefixes(name, names) if name in tree else [] for name in LISTS}
    job = assemble(Job, values, lists)
    check_replicas(job, locations)
    check_relations(job, locations)
    check_routing(job, locations)
    check_paths(job, typed["output.path"], locations)
    return job


def templates() -> list[tuple[str, str]]:
    """The name and first comment line of every template, sorted by name."""
    folder = resources.files("jobs") / "templates"
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".toml"))
    return [
        (name.removesuffix(".toml"), file.read_text("utf-8").split("\n", 1)[0].strip("# "))
        for name, file in files
    ]


def reference() -> list[tuple[str, str, str, str]]:
    """The rows of docs/job-file.md: key, accepted values, default, meaning."""
    return [(key.name, key.takes(), _default(key), key.meaning) for key in KEYS]


def _default(key: Key) -> str:
    """The default as TOML; empty if there is none, or the meaning describes it."""
    return "" if key.default is None else shown(key.default).replace(",", "_")


def _read_source(path: str | Path) -> tuple[str, str, str, str]:
    """Text, address, base folder and default name of a job file or a template."""
    typed = os.fspath(path)
    address = printable(mask(typed))
    if format_of(typed) is not None:
        hint = "pass rows with -i: textmill run embed -i ROWS -o OUTPUT"
        raise UsageError(f"{address}: is not a job file", hint=hint)
    try:
        with Path(typed).open("rb") as file:
            content = file.read(_LARGEST_JOB_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return _template(typed, address)
    except OSError as error:
        raise UsageError(f"{address}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_JOB_BYTES:
        raise UsageError(f"{address}: a job file must be at most {_LARGEST_JOB_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{address}:{line}: not UTF-8") from None
    stem = re.sub(r"[^\w-]+", "-", mask(Path(typed).stem))[:64].strip("-_")
    return text, address, str(Path(typed).parent), stem or "job"


def _template(typed: str, address: str) -> tuple[str, str, str, str]:
    names = [name for name, _ in templates()]
    if typed in names:
        template = resources.files("jobs") / "templates" / f"{typed}.toml"
        return template.read_text("utf-8"), f"template `{typed}`", "", typed
    raise UsageError(
        f"{address}: no such job file or template{did_you_mean(typed, names)}",
        hint="templates are " + ", ".join(names),
    )


def _is_required(key: Key, tree: Mapping[str, object]) -> bool:
    """True for a required key, unless it belongs to a list without a table."""
    return key.is_required and (key.section not in LISTS or key.section in tree)


def _plain(value: object) -> object:
    """The value of a flag as a job file has it."""
    if isinstance(value, tuple):
        return list(value)
    return os.fspath(value) if isinstance(value, Path) else value


def _missing(key: Key, locations: KeyLocations) -> UsageError:
    if key.section == "rule":
        hint = 'column = "sensitive", equals = true, endpoints = ["local"]'
        return locations.refuse(f"`{key.name}` is missing", "rule", hint=hint)
    is_path = key.name.endswith(".path")
    hint = (
        f"{flag(key.name)} PATH"
        if is_path
        else f"--set {key.name}={next(iter(key.choices), 'VALUE')}"
    )
    return locations.refuse(f"`{key.name}` is missing", hint=hint)


def _resolve_path(path: str, base: str) -> str:
    """The path to open: relative to the base, except for another machine or a stream."""
    if path == "-" or is_remote(path):
        return path
    joined = str(Path(base, path))
    return "./-" if joined == "-" else joined  # only a typed `-` is a stream


def _with_defaults(
    typed: Mapping[str, Any], names: Names, locations: KeyLocations, stem: str
) -> dict[str, Any]:
    """The typed values with the defaults that follow from task, kinds and origins."""
    method = TASKS[typed["task"]].default_aggregate
    values = {"name": stem, "aggregate.method": method, **typed}
    values["parameters"] = dict(typed["parameters"])
    values["parameters.prompt"] = values["parameters"].pop("prompt", None)
    for prefix in prefixes("endpoint", names):
        values |= _endpoint_defaults(typed, prefix, names, locations)
    return values


def _endpoint_defaults(
    typed: Mapping[str, Any], prefix: str, names: Names, locations: KeyLocations
) -> dict[str, Any]:
    """The same for the endpoint whose keys start with `prefix`."""

    def value(last: str, default: Any = None) -> Any:
        return typed.get(f"{prefix}.{last}", default)

    name = prefix.partition(".")[2]
    if name and value("name", name) != name:  # the whole table came with --set
        raise locations.wrong(f"{prefix}.name", "endpoints can be named only in the file")
    kind = KINDS[value("kind")]
    url = value("url")
    query_in_url: dict[str, str] = {}
    if url is not None:
        url, query_in_url = query_of_url(f"{prefix}.url", url, locations)
    check_headers(
        f"{prefix}.headers", value("headers", {}), locations, has_key=value("api_key") is not None
    )
    check_query(f"{prefix}.query", value("query", {}), locations)
    check_proxy(f"{prefix}.proxy", value("proxy"), locations)
    defaults = {
        "name": name or value("name", value("kind")),
        "provider": value("provider", next(iter(kind.providers), None)),
        "url": served_url(
            value("kind"),
            url,
            kind.url,
            prefix,
            locations,
            allow_http=value("allow_http", False),
            has_proxy=value("proxy") is not None,
        ),
        "query": query_in_url | value("query", {}),
        "concurrency": value("concurrency", kind.concurrency),
        "batch_size": value("batch_size", kind.batch_size(typed["task"])),
    }
    for last in ("api_key", "proxy"):
        if (typed_there := value(last)) is not None:
            defaults[last] = _from_here(typed_there, f"{prefix}.{last}", locations)
    for last in ("headers", "query"):
        defaults[last] = {
            name: _from_here(each, f"{prefix}.{last}.{name}", locations)
            for name, each in defaults.get(last, value(last, {})).items()
        }
    origin = f"endpoint.{value('replica_of')}"
    if origin in prefixes("endpoint", names) and not kind.models:
        for last in ("model", "revision"):
            if (served := value(last, typed.get(f"{origin}.{last}"))) is not None:
                defaults[last] = served
    return {f"{prefix}.{last}": value for last, value in defaults.items()}


def _from_here(value: Any, key: str, locations: KeyLocations) -> Any:
    """The value; a file of the command line is relative to the current folder."""
    if isinstance(value, Reference) and value.file and locations.on_command_line(f"{key}.file"):
        return Reference(file=str(expanded(value.file, f"{key}.file")))
    return value
