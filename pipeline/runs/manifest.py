"""Decides which run this is: the interrupted one, or a new one.

A run is open until it commits or is closed. Starting the same job on the same input again resumes
the open run under its id. Its settled outcomes remain, failures too: otherwise a resumed run would
not write the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeline.cache.keys import prefix
from pipeline.errors import CLOSING
from pipeline.prepare.pipeline import Pipeline, settings_in_effect
from pipeline.records import Endpoint
from pipeline.runs.run_id import new_run_id
from pipeline.source.survey import Survey

State = Literal["open", "committed", "closed"]

KEPT_RUNS = 30
"""How many run folders are kept, newest first."""


class Manifest(Struct, frozen=True, kw_only=True):
    """The description of a run, durable before its first call."""

    run: str
    number: int
    """Counts the runs of this output; clocks jump, and two runs may begin in one second."""
    state: State = "open"
    started: str
    job: str
    fingerprint: str
    """Fingerprint of the settings that affect answers."""
    input: str
    """Fingerprint of the input's files."""
    rows: int
    output: str
    models: list[list[str]]
    """The identity of each endpoint's model, as in keys."""
    columns: dict[str, str]
    """Columns of the output with their Arrow types, as far as known before the first answer."""
    input_settings: dict[str, Any] = {}
    """The keys of the job file that decide how a row becomes inputs."""
    prefixes: list[Any] = []
    """The part of the cache key that all requests of an endpoint share, per endpoint."""
    version: str = ""
    exit: int | None = None
    rows_out: int | None = None
    accounting: dict[str, int] = {}
    """Rows added, changed, removed, unchanged and retried since the last commit."""
    parts: list[tuple[str, str]] = []
    """Parts of the output with their SHA-256."""


def planned_manifest(
    pipeline: Pipeline, endpoints: Sequence[Endpoint], surveyed: Survey, columns: dict[str, str]
) -> Manifest:
    """The manifest of a new run of this job."""
    return Manifest(
        run=new_run_id(),
        number=1,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        job=pipeline.name,
        fingerprint=pipeline.fingerprint,
        input=surveyed.fingerprint,
        rows=surveyed.rows,
        output=pipeline.output.path,
        models=[list(endpoint.identity) for endpoint in endpoints],
        input_settings=settings_in_effect(pipeline, endpoints),
        prefixes=[msgspec.json.decode(prefix(endpoint)) for endpoint in endpoints],
        columns=columns,
        version=_version(),
    )


def _version() -> str:
    try:
        return version("textmill")
    except PackageNotFoundError:  # run from its sources
        return ""


def last(manifests: Iterable[Manifest]) -> Manifest | None:
    """The newest run."""
    return max(manifests, key=lambda each: (each.number, each.run), default=None)


def this_run(new: Manifest, found: Iterable[Manifest]) -> Manifest:
    """The run to resume: the last one if it is open and has the same job and input, else `new` with
    the next number.

    Only the last run can be resumed. A new run replaces an older open one: its answers are in the
    cache.
    """
    before = last(found)
    if before is None:
        return replace(new, number=1)
    is_same = (before.fingerprint, before.input) == (new.fingerprint, new.input)
    if before.state == "open" and is_same:
        # Settings that do not affect answers, such as a replica, may differ now.
        return replace(new, run=before.run, number=before.number, started=before.started)
    return replace(new, number=before.number + 1)


def end_manifest(manifest: Manifest, exit_code: int, rows_out: int | None = None) -> Manifest:
    """The manifest of a run that ended with this code."""
    if rows_out is not None:
        return replace(manifest, state="committed", exit=exit_code, rows_out=rows_out)
    state: State = "closed" if exit_code in CLOSING else "open"
    return replace(manifest, state=state, exit=exit_code)


def runs_to_remove(found: Mapping[str, Manifest | None], this: str) -> list[str]:
    """The run folders to remove: all but the newest `KEPT_RUNS`, and never that of this run.

    `found` holds their manifests; None, an unreadable manifest, counts as the oldest.
    """

    def age(name: str) -> tuple[int, str]:
        manifest = found[name]
        return (manifest.number if manifest else 0, name)

    others = sorted(found.keys() - {this}, key=age, reverse=True)
    return sorted(others[KEPT_RUNS - 1 :])
