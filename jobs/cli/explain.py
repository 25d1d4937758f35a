"""`textmill explain`: why the requests of one row are cached, or would be sent again."""

from __future__ import annotations

import difflib
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jobs.cli.job_options import FLAGGED, GroupedCommand, JobSettings, job_options
from jobs.cli.shell import command, print_json
from pipeline.errors import UsageError
from pipeline.text import many, printable

if TYPE_CHECKING:
    from pipeline.explain import Difference, LastCommit, RowReport
    from pipeline.prepare.pipeline import Pipeline
    from pipeline.records import Document
    from pipeline.source.survey import Survey

MAX_IDS = 10_000
"""The number of ids that are kept to suggest the nearest one."""


@command(cls=GroupedCommand, ends_in_json=True)
@click.argument("source", metavar="JOB")
@click.option("--id", "name", metavar="ID", required=True, help="Id of the row to explain.")
@job_options([key for key in FLAGGED if key.name != "input.id"])
def explain(source: str, name: str, settings: JobSettings, as_json: bool) -> int:
    """Explain why a row of JOB is cached, or is not."""
    from jobs.build import build
    from jobs.cli.streams import with_input_file
    from pipeline.cache.read_only import open_to_read
    from pipeline.explain import LastCommit, explain
    from pipeline.source.scan import survey

    job = settings.load(source, needs_output=False)
    with with_input_file(job) as placed_job:
        pipeline = build(placed_job, with_secret=False)
        surveyed = survey(pipeline.input)
        document = _find_row(surveyed, name)
        past = LastCommit()
        if job.output.path != "-":
            past = _last_commit(pipeline, surveyed.spec.id, document)
        cache = open_to_read(pipeline.answers)
        with closing(cache) if cache else nullcontext():
            row = explain(pipeline, document, cache, past)
    if as_json:
        print_json(row, enc_hook=str)
    else:
        _print(row)
    return 0


def _find_row(surveyed: Survey, name: str) -> Document:
    """The row with this id, or this identity in hex. Raises: UsageError if there is none."""
    from pipeline.source.documents import read

    ids: list[str] = []
    for documents in read(surveyed):
        for document in documents:
            row_id = str(document.id)
            if (document.id is not None and row_id == name) or document.identity.hex() == name:
                return document
            if len(ids) < MAX_IDS and document.id is not None:
                ids.append(row_id)
    near = difflib.get_close_matches(name, ids, n=1) or ids[:1]
    hint = f"an id of this input is `{printable(near[0], 80)}`" if near else None
    if surveyed.spec.id is None:
        hint = "--set input.id=COLUMN names the column of ids"
    raise UsageError(
        f"{printable(surveyed.spec.path)}: no row with the id `{printable(name, 80)}`", hint=hint
    )


def _last_commit(pipeline: Pipeline, id_name: str | None, document: Document) -> LastCommit:
    """What the last commit and the last run hold about this row."""
    from pipeline.explain import LastCommit
    from pipeline.runs.folder import failures, manifests
    from pipeline.search import chunk_ids
    from pipeline.source import identity

    runs = list(manifests(pipeline.output.path))
    row = document.identity

    def is_row(value: Any) -> bool:
        return value == row.hex() or (value is not None and identity.of_id(value) == row)

    return LastCommit(
        manifest=next((run for run in runs if run.get("state") == "committed"), None),
        failures=failures(pipeline.output.path, runs[0]["run"], row) if runs else (),
        chunk_ids=chunk_ids(pipeline.output.path, id_name or "id", is_row),
    )


def _print(row: RowReport) -> None:
    cached = sum(chunk.state == "cached" for chunk in row.chunks)
    count = len(row.chunks)
    row_id = row.identity if row.id is None else str(row.id)
    print(
        f"{printable(row_id, 80)}  {printable(row.address, 200)}  "
        f"{many(count, 'chunk')}, {cached:,} cached"
    )
    if row.error is not None:
        print(f"not sent: {printable(row.error, 500)}")
    elif not count:
        print("nothing to send: the text is blank")
    spans = [f"{chunk.start_char:,}..{chunk.end_char:,}" for chunk in row.chunks]
    width = max(map(len, ["span", *spans]))
    if spans:
        print(f"{'chunk':>7}  {'span':>{width}}  tokens  key")
    previous = ""
    for chunk, span in zip(row.chunks, spans, strict=True):
        reason = chunk.why or ""
        if chunk.differs:
            reason += ": " + "; ".join(map(_difference, chunk.differs))
        line = f"{chunk.chunk:>7}  {span:>{width}}  {chunk.tokens:>6,}  {chunk.key}  {chunk.state}"
        shown_reason = "as above" if reason == previous else printable(reason, 500)
        print(f"{line}: {shown_reason}" if reason else line)
        previous = reason
    if row.changed and cached < count:
        print("since the last committed run:")
        for difference in row.changed:
            print(f"  {printable(_difference(difference), 500)}")


def _difference(difference: Difference) -> str:
    return f"{difference.name}: {_value(difference.before)} -> {_value(difference.now)}"


def _value(value: Any) -> str:
    if value is None or value == "":
        return "not set"
    return printable(msgspec.json.encode(value).decode(), 120)
