"""The job file: TOML in, one frozen `Job` out, or one line that says what is wrong and where.

The records stand in `jobs/spec/job.py`, the keys in `jobs/spec/table.py`. What a job may not say
beyond the bounds of one key stands in `jobs/spec/check_job.py` (URLs, secrets, contradictions),
`jobs/spec/check_endpoints.py` (endpoints and rules among each other) and
`jobs/spec/check_paths.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jobs.secrets import Reference, mask
from jobs.spec.check_endpoints import check_replicas, check_routing
from jobs.spec.check_job import check_relations, check_secrets, served_url
from jobs.spec.check_paths import check_paths
from jobs.spec.flags import flag
from jobs.spec.job import (
    AggregateSpec,
    BudgetSpec,
    ChunkSpec,
    EndpointSpec,
    GuardSpec,
    InputSpec,
    Job,
    OutputSpec,
    RunSpec,
)
from jobs.spec.keys import Key, KeyLocations, check, read_toml, unknown
from jobs.spec.overrides import Names, by_name, override, prefixes, spread
from jobs.spec.table import KEYS, LATER
from pipeline.endpoints.kinds import KINDS
from pipeline.errors import UsageError
from pipeline.records import Deadline, Price, Rule
from pipeline.source.files import is_s3
from pipeline.tasks import TASKS
from pipeline.text import printable

_LARGEST_JOB_BYTES = 1_000_000


def load(
    path_or_template: str | Path,
    overrides: Sequence[tuple[str, str]] = (),
    flags: Mapping[str, object] = {},
    *,
    needs_output: bool = True,
) -> Job:
    """The job of a file, or of a template where no such file exists.

    Flags (None: not given) win over the file, `--set` overrides over flags, the last one over all.
    Without `needs_output` a missing output is `-`: for commands that write none.
    Raises: UsageError. No key is read: see `pipeline.secret.resolve`.
    """
    text, address, folder, stem = _found(path_or_template)
    tree = read_toml(text, address)
    locations = KeyLocations(address, {})
    names = by_name(tree, locations)
    for key, value in flags.items():
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            plain = os.fspath(plain) if isinstance(plain, Path) else plain
            override(tree, key, plain, flag(key), names, locations)
    for key, raw in overrides:
        override(tree, key, raw, f"--set {printable(mask(key), 80)}", names, locations)
    check_secrets(tree, locations)
    keys = spread(names)
    given = check(tree, keys, LATER, locations)
    if not needs_output:
        given.setdefault("output.path", "-")
    kinds = [f"{prefix}.kind" for prefix in prefixes("endpoint", names)]
    ruled = prefixes("rule", names) if "rule" in tree else []
    rules = [f"{prefix}.{last}" for prefix in ruled for last in ("column", "is", "endpoints")]
    for key in ("task", *kinds, *rules, "input.path", "output.path"):
        if key not in given:
            raise _missing(key, keys, locations)
    job = _job(given, keys, names, locations, stem, folder, ruled)
    check_replicas(job, locations)
    check_relations(job, locations)
    check_routing(job, locations)
    check_paths(job, given["output.path"], locations)
    return job


def templates() -> list[tuple[str, str]]:
    """Name and first comment line of every template, by name."""
    folder = resources.files("jobs") / "templates"
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".toml"))
    return [
        (name.removesuffix(".toml"), file.read_text("utf-8").split("\n", 1)[0].strip("# "))
        for name, file in files
    ]


def reference() -> list[tuple[str, str, str, str]]:
    """Rows of docs/job-file.md: key, what it takes, default, meaning."""
    return [(key.name, key.takes(), key.shown_default(), key.meaning) for key in KEYS]


def _found(path: str | Path) -> tuple[str, str, str, str]:
    """Text, address, base folder and default name of a job file or a template."""
    typed = os.fspath(path)
    address = printable(mask(typed))
    if typed.endswith((".jsonl", ".gz", ".zst", ".parquet")):
        hint = "rows are given with -i: textmill run embed -i ROWS -o OUTPUT"
        raise UsageError(f"{address}: is no job file", hint=hint)
    try:
        with Path(typed).open("rb") as file:
            content = file.read(_LARGEST_JOB_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return _template(typed, address)
    except OSError as error:
        raise UsageError(f"{address}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_JOB_BYTES:
        raise UsageError(f"{address}: larger than {_LARGEST_JOB_BYTES:,} bytes, no job file")
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
        f"{address}: no such job file or template{unknown(typed, names)}",
        hint="templates are " + ", ".join(names),
    )


def _missing(key: str, keys: Sequence[Key], locations: KeyLocations) -> UsageError:
    if key.startswith("rule"):
        hint = 'column = "sensitive", is = true, endpoints = ["local"]'
        return locations.refuse(f"`{key}` is missing", "rule", hint=hint)
    choices = next(known.choices for known in keys if known.name == key)
    value = next(iter(choices), "PATH")
    hint = f"{flag(key)} PATH" if key.endswith(".path") else f"--set {key}={value}"
    return locations.refuse(f"`{key}` is missing", hint=hint)


def _job(
    given: dict[str, Any],
    keys: Sequence[Key],
    names: Names,
    locations: KeyLocations,
    stem: str,
    folder: str,
    ruled: Sequence[str],
) -> Job:
    """The records of what was given, with the defaults that depend on task and kind."""
    values = {key.name: given.get(key.name, key.default) for key in keys}

    def section(name: str) -> dict[str, Any]:
        start = len(name) + 1
        return {k[start:]: v for k, v in values.items() if k.rpartition(".")[0] == name}

    def based(key: str) -> str:
        if key == "input.path" and is_s3(values[key]):
            return str(values[key])
        base = "" if locations.on_command_line(key) else folder
        path = str(Path(base, values[key]))
        # `-` is a stream only where it was typed so.
        if values[key] == "-":
            return "-"
        return "./-" if path == "-" else path

    def endpoint(prefix: str) -> EndpointSpec:
        said, kind = section(prefix), KINDS[values[f"{prefix}.kind"]]
        said["name"] = prefix.partition(".")[2] or said["name"] or said["kind"]
        said["provider"] = said["provider"] or next(iter(kind.providers), None)
        said["url"] = served_url(said["kind"], said["url"], kind.url, prefix, locations)
        said["concurrency"] = said["concurrency"] or kind.concurrency
        said["batch_size"] = said["batch_size"] or kind.batch_size(values["task"])
        api_key = said["api_key"]
        if api_key and api_key.file and locations.on_command_line(f"{prefix}.api_key.file"):
            said["api_key"] = Reference(file=str(Path(api_key.file).expanduser().absolute()))
        origin = origins.get(said["replica_of"])
        if origin is not None and not kind.models:
            said["model"] = said["model"] or values[f"{origin}.model"]
            said["revision"] = given.get(f"{prefix}.revision", values[f"{origin}.revision"])
        priced = any(key.startswith(f"{prefix}.price.") for key in given)
        return EndpointSpec(
            **said,
            price=Price(**section(f"{prefix}.price")) if priced else None,
            deadline=Deadline(**section(f"{prefix}.deadline")),
        )

    origins = {name: f"endpoint.{name}" for name in names["endpoint"]}
    for name, prefix in origins.items():
        if given.get(f"{prefix}.name", name) != name:  # the whole table came with --set
            raise locations.wrong(f"{prefix}.name", "endpoints get their names in the file")
    read, written = section("input"), section("output")
    read["path"], written["path"] = based("input.path"), based("output.path")
    parameters = given["parameters"]
    method: Any = values["aggregate.method"] or TASKS[values["task"]].default_aggregate
    return Job(
        name=values["name"] or stem,
        task=values["task"],
        route=values["route"],
        input=InputSpec(**read),
        chunk=ChunkSpec(**section("chunk")),
        parameters={name: value for name, value in parameters.items() if name != "prompt"},
        prompt=parameters.get("prompt"),
        endpoints=tuple(endpoint(prefix) for prefix in prefixes("endpoint", names)),
        rules=tuple(
            Rule(given[f"{prefix}.column"], given[f"{prefix}.is"], given[f"{prefix}.endpoints"])
            for prefix in ruled
        ),
        aggregate=AggregateSpec(method),
        output=OutputSpec(**written),
        budget=BudgetSpec(**section("budget")),
        guard=GuardSpec(**section("guard")),
        run=RunSpec(**section("run")),
        address=locations.file,
        folder=folder,
    )
