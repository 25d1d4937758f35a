"""`textmill chunks`: the chunks of documents in colour, as JSON lines or as one HTML page."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from msgspec.structs import replace

from jobs.cli.job_options import GroupedCommand, JobSettings, job_options
from jobs.cli.shell import command, print_json, print_message, run_interruptibly
from jobs.display.chunks_page import ChunkedDocument, ChunkSettings, page
from jobs.spec.job import KEYS
from pipeline.disk.durable import storage_errors
from pipeline.errors import UsageError
from pipeline.records import Document, RowRef
from pipeline.source.formats.table import SUFFIXES, format_of
from pipeline.source.stores.table import is_remote
from pipeline.text import many, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from jobs.spec.job import Job
    from pipeline.prepare.factory import RequestFactory
    from pipeline.prepare.pipeline import Pipeline
    from pipeline.source.survey import Survey

JOB_FILES = (".toml", "")
"""Only files with these can be jobs; a name without a suffix may be that of a template."""
PAGES = (".html", ".htm")

COLOURS = ("cyan", "green")
MAX_ERRORS = 5
"""Unreadable rows that are listed one by one; the others are only counted."""


@command(cls=GroupedCommand)
@click.argument("source", metavar="[FILE_OR_JOB]", required=False)
@job_options()
@click.option("--only", metavar="ID", help="Show only the document with this id.")
@click.option("--html", metavar="PATH", help="Write one HTML page for a browser; - for stdout.")
def chunks(
    source: str | None,
    settings: JobSettings,
    only: str | None,
    html: str | None,
    as_json: bool,
) -> int:
    """Show the chunks of the documents in FILE_OR_JOB (- for stdin)."""
    if html is not None:
        if as_json:
            raise UsageError("--html and --json cannot be combined", hint="use one of them")
        if html != "-" and not html.lower().endswith(PAGES):
            raise UsageError(f"--html = {printable(html)} must end in .html, or be -")
    with _chunked_documents(source, settings) as (chunking, documents, total):
        if html is None:  # the page has them
            facts = chunking.facts().items()
            print_message(", ".join(f"{name} {fact}" for name, fact in facts))
        has_id = "input.id" in settings.flags
        chosen = _choose(documents, only, chunking.source, has_id=has_id)
        if html is not None:
            _write_page(html, page(chunking, chosen, total if only is None else 1))
        elif as_json:
            _print_errors(_print_json(chosen))
        else:
            from rich.console import Console

            console = Console(highlight=False, soft_wrap=True)
            _print_errors(_print_text(console, chosen))
    return 0


def _write_page(path: str, html: str) -> None:
    if path == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(html.encode())  # the page names its encoding
        return
    with storage_errors(Path(path)):
        Path(path).write_text(html, "utf-8")
    print_message(f"{printable(path)}: {len(html.encode()):,} bytes, for any browser")


def _choose(
    documents: Iterator[ChunkedDocument], only: str | None, source: str, *, has_id: bool
) -> Iterator[ChunkedDocument]:
    """All documents, or only the one with this name. Raises: UsageError if there is none."""
    if only is None:
        yield from documents
        return
    chosen = next((document for document in documents if document.name == only), None)
    if chosen is None:
        raise UsageError(
            f"{printable(source)}: no document `{printable(only)}`",
            hint=None if has_id else "--id COLUMN names the column of ids",
        )
    yield chosen


def _print_errors(errors: Iterator[str]) -> None:
    """Prints the documents that cannot be chunked to stderr, while the others are shown."""
    count = 0
    for count, error in enumerate(errors, 1):
        if count <= MAX_ERRORS:
            print_message(printable(error, 2_000))
    if count > MAX_ERRORS:
        print_message(f"and {many(count - MAX_ERRORS, 'more document')} that cannot be read")


def _print_json(documents: Iterator[ChunkedDocument]) -> Iterator[str]:
    """Prints a JSON line per chunk, and yields the errors."""
    for document in documents:
        if document.error is not None:
            yield document.error
        for chunk in document.chunks:
            record = {"id": document.name, **msgspec.structs.asdict(chunk)}
            if chunk.header is None:
                del record["header"]
            record["text"] = document.text[chunk.start_char : chunk.end_char]
            print_json(record)


def _print_text(console: Console, documents: Iterator[ChunkedDocument]) -> Iterator[str]:
    """Prints a table per document, and yields the errors."""
    from rich.text import Text

    for document in documents:
        if document.error is not None:
            yield document.error
            continue
        tokens = sum(chunk.tokens for chunk in document.chunks)
        head = Text(printable(document.name), style="bold")
        count = len(document.chunks)
        head.append(f"  {many(count, 'chunk')}, {many(tokens, 'token')}", style="default")
        console.print(head)
        if document.chunks:
            for line in _table(document, console.width):
                console.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def _table(document: ChunkedDocument, width: int) -> Iterator[Text]:
    """A line per chunk with its start and end, for a terminal of this width."""
    from rich.text import Text

    spans = [f"{chunk.start_char:,}..{chunk.end_char:,}" for chunk in document.chunks]
    span_width = max(4, *(len(span) for span in spans))
    yield Text(f"{'chunk':>7}  {'span':>{span_width}}  tokens  shared", style="dim")
    covered, section = 0, None
    for at, chunk in enumerate(document.chunks):
        if chunk.section != section:
            section = chunk.section
            yield Text(f"         {printable(section or '', width)}", style="bold dim")
        figures = f"{spans[at]:>{span_width}}  {chunk.tokens:>6,}  {document.shared[at]:>6,}"
        line = Text.assemble((f"{at:>7}  {figures}  ", "dim"))
        piece = document.text[chunk.start_char : chunk.end_char]
        shared = min(len(piece), max(0, covered - chunk.start_char))
        line.append_text(_both_ends(piece, shared, at, max(8, width - len(line))))
        yield line
        covered = max(covered, chunk.end_char)


def _both_ends(piece: str, shared: int, at: int, room: int) -> Text:
    """The start and end of a chunk in `room` cells; the shared part in the previous colour."""
    from rich.text import Text

    line = Text()
    own, before = COLOURS[at % 2], f"italic {COLOURS[(at - 1) % 2]}"

    def add(start: int, end: int) -> None:
        if start < shared:
            line.append(printable(piece[start : min(end, shared)], end), style=before)
        if end > shared:
            line.append(printable(piece[max(start, shared) : end], end), style=own)

    head = _fitting(piece, room)
    if head == len(piece):
        add(0, head)
        return line
    head = _fitting(piece, (room - 3) * 3 // 5)
    tail = len(piece) - _fitting(piece[::-1], room - 3 - (room - 3) * 3 // 5)
    add(0, head)
    line.append(" … ", style="dim")
    add(tail, len(piece))
    return line


def _fitting(piece: str, room: int) -> int:
    """The number of leading characters that fit into `room` cells, with whole escapes."""
    from rich.cells import cell_len

    used = 0
    for at, character in enumerate(piece):
        used += cell_len(printable(character))
        if used > room:
            return at
    return len(piece)


@contextmanager
def _chunked_documents(
    source: str | None, settings: JobSettings
) -> Iterator[tuple[ChunkSettings, Iterator[ChunkedDocument], int | None]]:
    """The chunk settings, the documents as they are read, and their number, if it is known."""
    from jobs.build import build, tokenizer_name
    from jobs.cli.streams import with_input_file
    from pipeline.source.scan import survey

    input_path = settings.flags.get("input.path")
    if source is None:
        if input_path is None:
            raise UsageError("chunks needs a file or a job", hint="textmill chunks report.md")
        source = str(input_path)
    is_text = _is_text(source)
    is_file = source == "-" or is_text or _is_rows(source)
    if is_file and input_path is not None and input_path != source:
        raise UsageError(f"{printable(source)}: --input names another file", hint="use one of them")
    if not is_file and not _may_be_job(Path(source)):
        raise UsageError(
            f"{printable(source)}: unknown kind of file, not {SUFFIXES} nor a job file (.toml)",
            hint="convert it to Markdown or plain text, or pass a text to `textmill chunks -`",
        )
    if is_file:
        settings = replace(settings, flags={**settings.flags, "input.path": source})
    job = settings.load("embed" if is_file else source, needs_output=False)
    name = "standard input" if source == "-" else Path(source).name
    with nullcontext(job) if is_text else with_input_file(job) as job:
        try:
            pipeline = build(job, with_secret=False)
        except UsageError as error:
            if is_file and job.chunk.tokenizer is None:
                error.hint = f"{error.hint}, or --tokenizer o200k_base"
            raise
        factory = _factory(pipeline)
        chunking = ChunkSettings(
            "standard input" if source == "-" else source,
            job.chunk.method,
            job.chunk.size,
            job.chunk.overlap,
            tokenizer_name(job),
            factory.prefixes.passage,
        )
        if is_text or (source == "-" and _is_plain(Path(job.input.path))):
            text = _text(Path(source if is_text else job.input.path), chunking.source)
            document = Document(b"", name, text, {}, name, 0, RowRef(None, 0))
            yield chunking, iter([_chunk_document(job, factory, document)]), 1
            return
        surveyed = run_interruptibly(lambda: survey(pipeline.input))
        yield chunking, _documents(job, factory, surveyed), surveyed.rows


def _factory(pipeline: Pipeline) -> RequestFactory:
    """The requests of a run of this job, with what its servers said about their models so far."""
    from pipeline.cache.read_only import open_to_read
    from pipeline.plan import with_cached_identities
    from pipeline.prepare.factory import RequestFactory

    cache = open_to_read(pipeline.answers)
    with closing(cache) if cache else nullcontext():
        return RequestFactory(pipeline, with_cached_identities(pipeline, cache))


def _is_text(source: str) -> bool:
    """True for one file that is one text; a pattern of such files is a table of documents."""
    found = format_of(source)
    is_one = not is_remote(source) and not has_magic(source)
    return found is not None and found.kind == "text" and is_one


def _is_rows(source: str) -> bool:
    """True for a table of documents: a file of rows, a folder or a pattern of files."""
    return format_of(source) is not None or is_remote(source) or Path(source).is_dir()


def _may_be_job(path: Path) -> bool:
    """True for a .toml file, for a file without a suffix that has a section of a job file, and for
    a name without a file, which may be that of a template."""
    if path.suffix.lower() not in JOB_FILES or path.suffix or not path.is_file():
        return path.suffix.lower() in JOB_FILES
    try:
        sections = tomllib.loads(path.read_text("utf-8")).keys()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return not {key.name.partition(".")[0] for key in KEYS}.isdisjoint(sections)


def _is_plain(spooled: Path) -> bool:
    """True if standard input is one plain text: not Parquet, not compressed, not JSON."""
    with spooled.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return spooled.suffix == ".jsonl" and not start.startswith(b"{")


def _text(path: Path, address: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # offsets count every CR
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{printable(address)}: cannot be read: {problem}") from None


def _documents(job: Job, factory: RequestFactory, surveyed: Survey) -> Iterator[ChunkedDocument]:
    from pipeline.source.documents import read

    for documents in read(surveyed):
        for document in documents:
            yield _chunk_document(job, factory, document)


def _chunk_document(job: Job, factory: RequestFactory, document: Document) -> ChunkedDocument:
    """The chunks that a run sends for a document."""
    from chunkers.tokens.tokenizers import tokenizer
    from jobs.build import tokenizer_name
    from pipeline.prepare.requests import prepare_document

    name = document.address if document.id is None else str(document.id)
    prepared = prepare_document(factory, document)
    if prepared.document.error is not None:
        return ChunkedDocument(name, error=f"{document.address}: {prepared.document.error}")
    text, count = document.text or "", tokenizer(tokenizer_name(job)).count
    chunks = [request.chunk for request in prepared.requests]
    covered, shared = 0, []
    for chunk in chunks:
        overlap = text[chunk.start_char : min(covered, chunk.end_char)]
        shared.append(count(overlap) if overlap else 0)
        covered = max(covered, chunk.end_char)
    return ChunkedDocument(name, text, chunks, shared)
