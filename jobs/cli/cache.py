"""The commands of `textmill cache`: stats, verify, prune, export and import."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
import msgspec

from jobs.cli.shell import command, print_json, print_message
from jobs.format import byte_size, parse_duration
from jobs.home import home, home_to_read
from pipeline.disk.durable import replaced, storage_errors
from pipeline.errors import StateError, UsageError
from pipeline.text import inflect, many, printable

if TYPE_CHECKING:
    from pipeline.cache.maintenance import Damage

MAX_MESSAGES = 20
"""Damaged entries that are listed one by one; the others are only counted."""


@click.group()
def cache() -> None:
    """Count, verify, prune, export and import the cached answers."""


@command(group=cache, ends_in_json=True)
def stats(as_json: bool) -> int:
    """Count the cached answers by model, with their size and age."""
    from pipeline.cache.maintenance import CacheStats, cache_stats
    from pipeline.cache.read_only import open_to_read

    folder = home_to_read() / "answers"
    totals = CacheStats()
    if (answers := open_to_read(folder)) is not None:
        with closing(answers):
            totals = cache_stats(answers)
    if as_json:
        _print_json(totals, folder=str(folder))
        return 0
    lines = [f"{many(totals.answers, 'answer')}, {byte_size(totals.bytes)}"]
    if totals.splits:
        lines[0] += f", and {many(totals.splits, 'record')} of inputs that were too long"
    lines.append(
        f"{printable(str(folder))}: {byte_size(totals.file_bytes)} on disk, "
        f"{byte_size(totals.free_bytes)} free"
        if totals.file_bytes
        else f"{printable(str(folder))}: the cache is empty"
    )
    if totals.oldest is not None and totals.newest is not None:
        lines.append(f"stored from {_day(totals.oldest)} to {_day(totals.newest)}")
    for kind in totals.kinds:
        what = "texts" if kind.dimension is None else f"vectors of {kind.dimension:,}"
        model = printable(kind.model, 60) or "no model name"
        lines.append(f"  {kind.answers:>12,}  {what:<17}  {byte_size(kind.bytes):>9}  {model}")
    if totals.request_settings:
        lines.append("requested so far:")
    for parts in totals.request_settings:
        lines.append(f"  {_request_line(parts)}")
        origins = parts.get("origins")
        for origin in origins if isinstance(origins, list) else ():
            lines.append(f"    answered by {printable(str(origin), 200)}")
    if totals.damaged:
        lines.append(f"{_count_damaged(totals.damaged)}; check with: textmill cache verify")
    print("\n".join(lines))
    return 0


def _request_line(parts: dict[str, object]) -> str:
    """The task, the model and the parameters of cached requests."""
    names = ("kind", "provider", "model", "url", "revision", "identity")
    model = "/".join(str(part) for name in names if (part := parts.get(f"endpoint.{name}")))
    parameters = [
        f"{name.removeprefix('parameters.')} = {msgspec.json.encode(value).decode()}"
        for name, value in parts.items()
        if name.startswith("parameters.")
    ]
    return printable(f"{parts['task']}  {model}  {', '.join(parameters)}".rstrip(), 200)


@command(group=cache, ends_in_json=True)
@click.option(
    "--repair",
    "--delete",
    is_flag=True,
    help="Remove damaged answers, so that the next run requests them again.",
)
def verify(repair: bool, as_json: bool) -> int:
    """Check every cached answer. Exit 12 if damage was found and not removed."""
    from pipeline.cache.maintenance import find_damage
    from pipeline.cache.salvage import salvage
    from pipeline.cache.store import AnswerCache

    folder = home_to_read() / "answers"
    good = bad = removed = 0
    damaged: list[Damage] = []
    faults: list[str] = []
    count = 0

    def report_damage(damage: Damage) -> None:
        nonlocal count
        count += 1
        damaged.append(damage)
        if len(damaged) > 1_000:
            damaged.pop()
        if count <= MAX_MESSAGES:
            print_message(
                f"{printable(damage.key, 80)}: {damage.why}, stored {_day(damage.stored)}"
            )

    moved_to: Path | None = None
    if _has_answers(folder):
        try:
            with closing(AnswerCache(folder)) as answers:
                faults = answers.faults()
                if not faults:
                    good, bad, removed = find_damage(answers, repair=repair, report=report_damage)
        except StateError as error:
            faults = [str(error)]
        for fault in faults[:MAX_MESSAGES]:
            print_message(printable(fault, 300))
        if faults and repair:
            good, moved_to = salvage(folder)
    if bad > MAX_MESSAGES:
        print_message(f"and {bad - MAX_MESSAGES:,} more")
    is_whole = bad == removed and (not faults or repair)
    code = 0 if is_whole else 12
    if as_json:
        _print_json(
            {
                "good": good,
                "damaged": bad,
                "removed": removed,
                "file_faults": faults,
                "moved_to": str(moved_to) if moved_to else None,
                "keys": [damage.key for damage in damaged],
                "exit": code,
            }
        )
    elif moved_to is not None:
        print(
            f"{many(good, 'readable answer')} {inflect(good, 'is', 'are')} in a new file; "
            f"the damaged file is {moved_to}"
        )
    elif faults:
        print("the cache file is damaged; --repair keeps the readable answers")
    else:
        end = "; --repair removes them" if bad else ""
        if removed:
            them = inflect(removed, "it", "them")
            end = f", {removed:,} of them removed; the next run requests {them} again"
        whole = f"{many(good, 'answer')} {inflect(good, 'is', 'are')} intact"
        print(f"{whole}, {_count_damaged(bad)}{end}")
    return code


@command(group=cache, ends_in_json=True)
@click.option(
    "--older-than", metavar="AGE", required=True, help="Age such as 90d; units are h, d, w and y."
)
@click.option("--dry-run", is_flag=True, help="Print what would be removed, and remove nothing.")
def prune(older_than: str, dry_run: bool, as_json: bool) -> int:
    """Remove old answers from the cache. Answers are never removed automatically."""
    from pipeline.cache.maintenance import find_older
    from pipeline.cache.store import AnswerCache

    seconds = age_seconds(older_than)
    folder = home_to_read() / "answers"
    count = size = freed = 0
    if _has_answers(folder):
        # Exclusive access: a run relies on every answer that it found in the cache.
        with closing(AnswerCache(folder, alone=not dry_run)) as answers:
            before = answers.file_bytes
            for old in find_older(answers, time.time() - seconds):
                count += len(old) if dry_run else answers.remove(old)
                size += sum(len(entry.encoded or b"") for entry in old)
            if count and not dry_run:
                answers.shrink_file()
                freed = max(0, before - answers.file_bytes)
    size_text = f"{many(count, 'answer')}, {byte_size(size)}"
    if as_json:
        figures = {"answers": count, "bytes": size, "freed_bytes": freed, "dry_run": dry_run}
        _print_json(figures, exit=0)
    elif dry_run:
        are = inflect(count, "is", "are")
        print(f"{size_text}, {are} older than {older_than} and would be removed")
    else:
        print(f"{size_text}, removed; the file is {byte_size(freed)} smaller")
    return 0


def age_seconds(age: str) -> float:
    """The seconds of `90d`. Raises: UsageError, also for `m` (minutes or months?)."""
    seconds = parse_duration(age, ("h", "d", "w", "y"))
    if seconds is None:
        raise UsageError(
            f"--older-than = {printable(age, 40)} must be a number and h, d, w or y",
            hint="such as --older-than 90d",
        )
    return seconds


@command("export", group=cache, ends_in_json=True)
@click.argument("file")
def export_to(file: str, as_json: bool) -> int:
    """Export all answers to FILE (- for stdout), as a backup or for another machine."""
    from pipeline.cache.portable import export
    from pipeline.cache.store import AnswerCache

    folder = home_to_read() / "answers"
    if not _has_answers(folder):
        raise UsageError(f"{printable(str(folder))}: the cache is empty")
    if file == "-" and (as_json or sys.stdout.isatty()):
        problem = "an export is binary and cannot be written to a terminal"
        if as_json:
            problem = "--json and file `-` both write to stdout"
        raise UsageError(problem, hint="textmill cache export answers.textmill")
    with closing(AnswerCache(folder)) as answers, _export_file(file, folder) as out:
        written = export(answers, out)
    code = 3 if written.damaged else 0
    if written.damaged:
        print_message(
            f"{many(written.damaged, 'damaged entry', 'damaged entries')} "
            f"{inflect(written.damaged, 'was', 'were')} skipped; check with: textmill cache verify"
        )
    if as_json:
        _print_json(written, exit=code)
    else:
        print_message(f"{many(written.answers, 'answer')} written, {byte_size(written.bytes)}")
    return code


@contextmanager
def _export_file(file: str, folder: Path) -> Iterator[BinaryIO]:
    """The open file; it gets its name when it is complete and durable."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{printable(file)}: must not be in the cache folder")
    if path.is_dir() or (path.exists() and not _is_export(path)):
        raise UsageError(
            f"{printable(file)}: exists and was not written by `textmill cache export`",
            hint="use another file name, or remove the file",
        )
    with storage_errors(path), replaced(path, is_private=True) as out:  # answers are private
        yield out


def _is_export(path: Path) -> bool:
    from pipeline.cache.portable import MAGIC

    with suppress(OSError), path.open("rb") as file:
        return file.read(len(MAGIC)) in (MAGIC, b"")
    return False


@command("import", group=cache, ends_in_json=True)
@click.argument("file")
def import_from(file: str, as_json: bool) -> int:
    """Import the answers of FILE (- for stdin) that are not in the cache."""
    from pipeline.cache.portable import check, import_answers
    from pipeline.cache.store import AnswerCache

    messages = 0

    def report_line(line: str) -> None:
        nonlocal messages
        messages += 1
        if messages <= MAX_MESSAGES:
            print_message(printable(line, 300))

    with tempfile.TemporaryDirectory(prefix="textmill-", ignore_cleanup_errors=True) as spool:
        path = Path(file)
        if file == "-":  # read twice
            path = Path(spool, "stdin")
            with storage_errors(path), path.open("wb") as out:
                shutil.copyfileobj(sys.stdin.buffer, out)
        check(path)
        with closing(AnswerCache(home() / "answers")) as answers:
            imported = import_answers(answers, path, report_line)
    code = 3 if imported.damaged else 0
    if messages > MAX_MESSAGES:
        print_message(f"and {messages - MAX_MESSAGES:,} more")
    if as_json:
        _print_json(imported, exit=code)
        return code
    new = f"{imported.added:,} {inflect(imported.added, 'was', 'were')} new"
    print(f"{many(imported.answers, 'answer')} read, {new}", end="")
    bad = inflect(imported.damaged, "is damaged and was", "are damaged and were")
    print(f", {imported.damaged:,} {bad} skipped" if imported.damaged else "")
    if imported.other:
        differ = inflect(imported.other, "differs", "differ")
        print(f"{imported.other:,} {differ} from the answer in this cache, which is kept")
    return code


def _has_answers(folder: Path) -> bool:
    return os.path.exists(folder / "cache.db")  # noqa: PTH110 - False for an unreadable folder


def _print_json(record: object, **more: object) -> None:
    print_json(dict(msgspec.to_builtins(record)) | more)


def _count_damaged(entries: int) -> str:
    return f"{many(entries, 'entry', 'entries')} {inflect(entries, 'is', 'are')} damaged"


def _day(seconds: float) -> str:
    with suppress(OverflowError, ValueError, OSError):
        return time.strftime("%Y-%m-%d", time.gmtime(seconds))
    return "an unknown day"
