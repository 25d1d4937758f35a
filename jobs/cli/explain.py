"""The command `explain`: why the answers of one row are there, or would have to be paid for."""

from __future__ import annotations

import difflib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jobs.cli.job_options import FLAGGED, GroupedCommand, JobSettings, job_options
from jobs.cli.shell import command
from pipeline.errors import UsageError
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.explain import Difference, LastCommit, RowReport
    from pipeline.prepare.pipeline import Pipeline
    from pipeline.records import Document
    from pipeline.source.survey import Survey

NAMES = 10_000
"""So many ids are kept to find the one that was meant."""


@command(cls=GroupedCommand, ends_in_json=True)
@click.argument("source", metavar="JOB")
@click.option("--id", "name", metavar="ID", required=True, help="Id of the row to explain.")
@job_options([key for key in FLAGGED if key.name != "input.id"])
def explain(source: str, name: str, settings: JobSettings, as_json: bool) -> int:
    """Explain why a row of JOB is cached, or is not."""
    from jobs.build import build
    from jobs.cli.streams import with_files_for_streams
    from pipeline.cache.store import AnswerCache
    from pipeline.explain import explain
    from pipeline.plan import with_cached_identities
    from pipeline.source.scan import survey

    job = settings.load(source, needs_output=False)
    with with_files_for_streams(job) as (placed_job, _):
        pipeline = build(placed_job, with_secret=False)
        surveyed = survey(pipeline.input)
        document = _found(surveyed, name)
        past = _past(pipeline, document) if job.output.path != "-" else None
        if (pipeline.answers / "cache.db").exists():
            with closing(AnswerCache(pipeline.answers)) as cache:
                told = explain(
                    with_cached_identities(pipeline, cache), document, cache, past or _nothing()
                )
        else:
            told = explain(pipeline, document, None, past or _nothing())
    if as_json:
        print(msgspec.json.encode(told, enc_hook=str).decode())
    else:
        _print(told)
    return 0


def _nothing() -> LastCommit:
    from pipeline.explain import LastCommit

    return LastCommit()


def _found(surveyed: Survey, name: str) -> Document:
    """The row of this id, or of this identity in hex. Raises: UsageError where there is none."""
    from pipeline.source.documents import read

    known: list[str] = []
    for documents in read(surveyed):
        for document in documents:
            own = str(document.id)
            if (document.id is not None and own == name) or document.identity.hex() == name:
                return document
            if len(known) < NAMES and document.id is not None:
                known.append(own)
    near = difflib.get_close_matches(name, known, n=1) or known[:1]
    hint = f"an id of this input is `{printable(near[0], 80)}`" if near else None
    if surveyed.spec.id is None:
        hint = "--set input.id=COLUMN names the column of ids"
    raise UsageError(
        f"{printable(surveyed.spec.path)}: no row with the id `{printable(name, 80)}`", hint=hint
    )


def _past(pipeline: Pipeline, document: Document) -> LastCommit:
    from pipeline.explain import LastCommit
    from pipeline.runs.folder import failures, manifests
    from pipeline.search import chunk_ids
    from pipeline.source import identity

    runs = list(manifests(pipeline.output))
    name = document.identity

    def is_it(value: Any) -> bool:
        return value == name.hex() or (value is not None and identity.of_id(value) == name)

    return LastCommit(
        manifest=next((each for each in runs if each.get("state") == "committed"), None),
        failures=failures(pipeline.output, runs[0]["run"], name) if runs else (),
        chunk_ids=chunk_ids(pipeline.output, pipeline.input.id or "id", is_it),
    )


def _print(told: RowReport) -> None:
    cached = sum(chunk.state == "cached" for chunk in told.chunks)
    count = len(told.chunks)
    noun = "chunk" if count == 1 else "chunks"
    own = told.identity if told.id is None else str(told.id)
    print(
        f"{printable(own, 80)}  {printable(told.address, 200)}  {count:,} {noun}, {cached:,} cached"
    )
    if told.error is not None:
        print(f"not sent: {printable(told.error, 500)}")
    elif not count:
        print("nothing to send: the text is blank")
    spans = [f"{chunk.start_char:,}..{chunk.end_char:,}" for chunk in told.chunks]
    width = max(map(len, ["span", *spans]))
    if spans:
        print(f"{'chunk':>7}  {'span':>{width}}  tokens  key")
    before = ""
    for chunk, span in zip(told.chunks, spans, strict=True):
        why = chunk.why or ""
        if chunk.differs:
            why += ": " + "; ".join(map(_difference, chunk.differs))
        line = f"{chunk.chunk:>7}  {span:>{width}}  {chunk.tokens:>6,}  {chunk.key}  {chunk.state}"
        print(line + (f": {'as above' if why == before else printable(why, 500)}" if why else ""))
        before = why
    if told.changed and cached < count:
        print("since the last committed run:")
        for each in told.changed:
            print(f"  {printable(_difference(each), 500)}")


def _difference(each: Difference) -> str:
    return f"{each.name}: {_value(each.before)} -> {_value(each.now)}"


def _value(value: Any) -> str:
    if value is None or value == "":
        return "not said"
    return printable(msgspec.json.encode(value).decode(), 120)
