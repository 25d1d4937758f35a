"""`textmill check`: one request to each endpoint, and all else that can be known before a night.

The request holds a fixed sentence, never a row: an endpoint may not see every row, and the input
may not exist yet. Its answer is not kept; its cost is in the ledger.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct
from msgspec.structs import replace

from jobs.cli.job_options import GroupedCommand, JobSettings, job_options
from jobs.cli.plan import missing_column_line
from jobs.cli.shell import command, print_json, print_message
from jobs.format import cost as cost_of
from jobs.secrets import mask
from pipeline.errors import CLASSES, CLOSING, COMPLETE, StorageError, TextmillError, UsageError
from pipeline.events import usage_fields
from pipeline.records import Answer, Usage
from pipeline.text import many, printable, shown

if TYPE_CHECKING:
    from jobs.spec.job import Job
    from pipeline.ask import Exchange
    from pipeline.prepare.pipeline import Chunking
    from pipeline.source.files import InputSpec

State = Literal["ok", "note", "wrong"]


class Finding(Struct, frozen=True, kw_only=True):
    """What was found about one thing; `note`: it may be wrong, or cannot be known yet."""

    what: str
    state: State
    message: str
    hint: str = ""
    exit: int = COMPLETE


@command(cls=GroupedCommand, ends_in_json=True)
@click.argument("source", metavar="JOB")
@job_options()
def check(source: str, settings: JobSettings, as_json: bool) -> int:
    """Check a JOB before it runs: one request to each endpoint."""
    import anyio

    from jobs.build import build

    job = settings.load(source, needs_output=False, needs_input=False)
    pipeline = build(job, with_secret=False)
    findings = [
        Finding(what="job", state="ok", message=f"{job.address} is valid"),
        *_input(job, pipeline.input),
        *_folders(job),
    ]
    if not as_json:
        for finding in findings:
            _print(finding)
    exchanges = anyio.run(_ask, job, pipeline.chunking)
    own = [_of_exchange(each) for each in exchanges]
    own += _of_dimensions(exchanges)
    code = worst([*findings, *own])
    usage = sum((each.usage for each in exchanges), Usage())
    for trouble in _record(job, source, settings, exchanges, usage, code):
        print_message(trouble)
    if as_json:
        print_json(_as_dict(job, findings, own, exchanges, usage, code))
        return code
    for finding in own:
        _print(finding)
    working = sum(each.problem is None for each in exchanges)
    print(
        f"{working} of {many(len(exchanges), 'endpoint')} answered, "
        f"{many(usage.calls, 'call')}, {_usd(usage)}"
    )
    return code


def worst(findings: Sequence[Finding]) -> int:
    """The exit code of the worst finding: one that the same command does not solve comes first."""
    codes = [finding.exit for finding in findings]
    return max(codes, key=lambda code: (code in CLOSING, code), default=COMPLETE)


def _input(job: Job, spec: InputSpec) -> Iterator[Finding]:
    from pipeline.source.scan import peek

    path = job.input.path
    if path == "-":
        yield Finding(what="input", state="note", message="no file is named: not checked")
        return
    try:
        seen = peek(spec)
    except TextmillError as error:
        is_absent = "://" not in path and not os.path.lexists(path)
        if is_absent:
            yield Finding(what="input", state="note", message=f"{shown(path)} is not there yet")
        else:
            yield _wrong("input", error)
        return
    names = ", ".join(f"`{printable(name, 60)}`" for name in seen.columns[:10])
    more = ", ..." if len(seen.columns) > 10 else ""
    if seen.warning:
        yield Finding(what="input", state="note", message=seen.warning)
    else:
        files = many(seen.files, "file")
        message = f"{shown(path)}: {files}, columns {names}{more}"
        yield Finding(what="input", state="ok", message=message)
    for name in seen.absent:
        line = missing_column_line(name, seen.columns)
        yield Finding(what="input", state="note", message=line)


def _folders(job: Job) -> Iterator[Finding]:
    """Whether the output and the answers can be written."""
    from jobs.home import home

    if job.output.path == "-":
        yield Finding(what="output", state="note", message="no file is named: not checked")
    else:
        yield _folder("output", job.output.path)
    try:
        yield _folder("answers", str(home() / "answers"))
    except TextmillError as error:
        yield _wrong("answers", error)


def _folder(what: str, path: str) -> Finding:
    """Whether this path can be written: by the nearest folder above it that exists."""
    folder = Path(path).absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return Finding(what=what, state="ok", message=f"{shown(path)} can be written")
    problem = "is no folder" if not folder.is_dir() else "cannot be written"
    return _wrong(what, StorageError(f"{shown(path)}: {shown(str(folder))} {problem}"))


async def _ask(job: Job, chunking: Chunking) -> list[Exchange]:
    """One exchange for each endpoint, in the order of the file. Without its key none is asked."""
    from jobs.build import endpoint, probe
    from pipeline.ask import Exchange, ask_each

    found: list[Exchange | None] = []
    ready = []
    for spec in job.endpoints:
        try:
            ready.append(endpoint(job, spec, with_secret=True))
            found.append(None)
        except TextmillError as error:
            named = endpoint(job, spec, with_secret=False)
            found.append(Exchange(endpoint=named, problem=error))
    answered = iter(
        await ask_each(
            ready,
            lambda _: probe(job),
            sentences=chunking.sentences,
            chunk_tokens=chunking.max_tokens,
            max_seconds=job.run.max_start_seconds,
        )
    )
    return [each or next(answered) for each in found]


def _of_exchange(exchange: Exchange) -> Finding:
    endpoint = exchange.endpoint
    if exchange.problem is not None:
        found = _wrong(endpoint.name, exchange.problem)
        return replace(found, message=found.message.removeprefix(f"endpoint `{endpoint.name}`: "))
    assert exchange.answer is not None
    facts = [f"answered in {exchange.seconds:.2f} s", *_answer_facts(exchange.answer)]
    facts += [many(exchange.usage.tokens, "token"), _usd(exchange.usage)]
    facts += [f"reads {exchange.max_input_tokens:,} tokens"] if exchange.max_input_tokens else []
    calls, tokens = exchange.limits.calls.per_minute, exchange.limits.tokens.per_minute
    facts += [f"{calls:,.0f} calls/min"] if calls else []
    facts += [f"{tokens:,.0f} tokens/min"] if tokens else []
    model = exchange.answer.model or endpoint.model
    facts += [f"model {printable(model, 80)}"] if model else []
    return Finding(what=endpoint.name, state="ok", message=", ".join(facts))


def _answer_facts(answer: Answer) -> list[str]:
    if isinstance(answer.value, bytes):
        return [f"{len(answer.value) // 4:,} dimensions"]
    return ["cut off at its token limit"] if answer.truncated else []


def _of_dimensions(exchanges: Sequence[Exchange]) -> Iterator[Finding]:
    """Vectors of endpoints that cannot be in one output."""
    sizes = {
        each.endpoint.name: len(each.answer.value) // 4
        for each in exchanges
        if each.answer is not None and isinstance(each.answer.value, bytes)
    }
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"`{name}` {size:,}" for name, size in sizes.items())
        yield _wrong(
            "vectors", UsageError(f"all vectors of an output must have one dimension, got {listed}")
        )


def _wrong(what: str, error: TextmillError) -> Finding:
    return Finding(
        what=what,
        state="wrong",
        message=printable(str(error), 1_000),
        hint=printable(error.hint or "", 500),
        exit=error.exit_code,
    )


def _usd(usage: Usage) -> str:
    """The cost in dollars, also far below a cent."""
    if usage.unpriced_calls or usage.cost_usd >= 0.01 or not usage.cost_usd:
        return cost_of(usage)
    return f"${usage.cost_usd:.8f}".rstrip("0")


def _print(finding: Finding) -> None:
    print(f"{finding.state:5}  {finding.what}: {finding.message}")
    if finding.hint:
        print(f"       hint: {finding.hint}")


def _as_dict(
    job: Job,
    findings: Sequence[Finding],
    own: Sequence[Finding],
    exchanges: Sequence[Exchange],
    usage: Usage,
    code: int,
) -> dict[str, Any]:
    """The result for programs."""
    checks = [*findings, *own[len(exchanges) :]]
    return {
        "job": job.name,
        "exit": code,
        "class": CLASSES[code],
        "checks": checks,
        "endpoints": [
            _fields(each, finding) for each, finding in zip(exchanges, own, strict=False)
        ],
        **usage.totals,
        "cost_usd": _cost_usd(usage),
    }


def _fields(exchange: Exchange, finding: Finding) -> dict[str, Any]:
    endpoint, answer, problem = exchange.endpoint, exchange.answer, exchange.problem
    value = answer.value if answer is not None else None
    return {
        "name": endpoint.name,
        "kind": endpoint.kind,
        "url": endpoint.url,
        "model": (answer.model if answer is not None else "") or endpoint.model,
        "works": problem is None,
        "class": problem.exit_class if problem is not None else CLASSES[COMPLETE],
        "exit": finding.exit,
        "error": finding.message if problem is not None else None,
        "hint": finding.hint or None,
        "answer_seconds": round(exchange.seconds, 3),
        "dimension": len(value) // 4 if isinstance(value, bytes) else None,
        "max_input_tokens": exchange.max_input_tokens,
        "calls_per_minute": exchange.limits.calls.per_minute,
        "tokens_per_minute": exchange.limits.tokens.per_minute,
        **usage_fields(exchange.usage),
        "cost_usd": _cost_usd(exchange.usage),
    }


def _cost_usd(usage: Usage) -> float | None:
    """Not rounded to what counts in a run: one request may cost less than a millionth."""
    return None if usage.known_cost_usd is None else round(usage.cost_usd, 12)


def _record(
    job: Job,
    source: str,
    settings: JobSettings,
    exchanges: Sequence[Exchange],
    usage: Usage,
    code: int,
) -> Iterator[str]:
    """Counts what the calls cost in the register; yields the errors of writing it."""
    from jobs.history.register import RegisterEntry, start_record, utc
    from jobs.home import home
    from jobs.spec.flags import command_line

    if not usage.calls:
        return
    words = command_line(source, settings.overrides, settings.flags, verb="check")
    run = start_record(
        job.name,
        file="",
        output="",
        command=shlex.join(mask(word) for word in words),
        servers=job.servers,
    )
    try:
        entry = RegisterEntry(home(), replace(run, is_check=True))
    except TextmillError as error:
        yield str(error)
        return
    entry.end(
        replace(
            entry.run,
            ended_at=utc(time.time()),
            exit=code,
            class_=CLASSES[code],
            usage=usage.rounded(),
            endpoints={each.endpoint.name: each.usage.rounded() for each in exchanges},
        )
    )
    if entry.trouble:
        yield f"{entry.trouble}: the cost of this check is not in the ledger"
