"""The commands of `textmill cache`: what is kept, whether it is whole, what may go, a way out."""

from __future__ import annotations

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

from jobs.cli.shell import command, print_message
from jobs.format import byte_size, parse_duration
from jobs.home import answers_folder
from pipeline.disk.durable import replaced, storage_errors
from pipeline.errors import StateError, UsageError
from pipeline.text import agreeing, many, printable

if TYPE_CHECKING:
    from pipeline.cache.maintenance import Damage

TOLD = 20
"""Damaged entries that are told one by one; of more, only how many."""


@click.group()
def cache() -> None:
    """Count, verify, prune, export and import the cached answers."""


@command(group=cache, ends_in_json=True)
def stats(as_json: bool) -> int:
    """Count the cached answers by model, with their size and age."""
    from pipeline.cache.maintenance import CacheStats, cache_stats
    from pipeline.cache.store import AnswerCache

    folder = answers_folder()
    found = CacheStats()
    if _has_answers(folder):
        with closing(AnswerCache(folder)) as answers:
            found = cache_stats(answers)
    if as_json:
        _print_json(found, folder=str(folder))
        return 0
    lines = [f"{many(found.answers, 'answer')}, {byte_size(found.bytes)}"]
    if found.splits:
        lines[0] += f", and {many(found.splits, 'mark')} of inputs that are too long"
    lines.append(
        f"{printable(str(folder))}: {byte_size(found.file_bytes)} on disk, "
        f"{byte_size(found.free_bytes)} free"
        if found.file_bytes
        else f"{printable(str(folder))}: nothing is kept yet"
    )
    if found.oldest is not None and found.newest is not None:
        lines.append(f"stored from {_day(found.oldest)} to {_day(found.newest)}")
    for kind in found.kinds:
        what = "texts" if kind.dimension is None else f"vectors of {kind.dimension:,}"
        model = printable(kind.model, 60) or "no model named"
        lines.append(f"  {kind.answers:>12,}  {what:<17}  {byte_size(kind.bytes):>9}  {model}")
    if found.asked:
        lines.append("asked for so far:")
    for parts in found.asked:
        lines.append(f"  {_asked(parts)}")
    if found.damaged:
        lines.append(f"{_damaged(found.damaged)}: textmill cache verify")
    print("\n".join(lines))
    return 0


def _asked(parts: dict[str, object]) -> str:
    names = ("kind", "provider", "model", "url", "revision")
    model = "/".join(str(part) for name in names if (part := parts.get(f"endpoint.{name}")))
    told = [
        f"{name.removeprefix('parameters.')} = {msgspec.json.encode(value).decode()}"
        for name, value in parts.items()
        if name.startswith("parameters.")
    ]
    return printable(f"{parts['task']}  {model}  {', '.join(told)}".rstrip(), 200)


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

    folder = answers_folder()
    good = bad = removed = 0
    damaged: list[Damage] = []
    faults: list[str] = []
    told = 0

    def tell(damage: Damage) -> None:
        nonlocal told
        told += 1
        damaged.append(damage)
        if len(damaged) > 1_000:
            damaged.pop()
        if told <= TOLD:
            print_message(
                f"{printable(damage.key, 80)}: {damage.why}, stored {_day(damage.stored)}"
            )

    aside: Path | None = None
    if _has_answers(folder):
        try:
            with closing(AnswerCache(folder)) as answers:
                faults = answers.faults()
                if not faults:
                    good, bad, removed = find_damage(answers, repair=repair, tell=tell)
        except StateError as error:
            faults = [str(error)]
        for fault in faults[:TOLD]:
            print_message(printable(fault, 300))
        if faults and repair:
            good, aside = salvage(folder)
    if bad > TOLD:
        print_message(f"and {bad - TOLD:,} more")
    is_whole = bad == removed and (not faults or repair)
    code = 0 if is_whole else 12
    if as_json:
        _print_json(
            {
                "good": good,
                "damaged": bad,
                "removed": removed,
                "file_faults": faults,
                "moved_to": str(aside) if aside else None,
                "keys": [each.key for each in damaged],
                "exit": code,
            }
        )
    elif aside is not None:
        print(
            f"{many(good, 'answer')} could be read and {agreeing(good, 'stands', 'stand')} in a "
            f"new file; the old one: {aside}"
        )
    elif faults:
        print("the file of answers is damaged; --repair keeps what can be read")
    else:
        they = agreeing(removed, "it", "they")
        end = f", {removed:,} of them removed: {they} will be asked for again" if removed else ""
        end = end or (", --repair removes them" if bad else "")
        print(f"{many(good, 'answer')} {agreeing(good, 'is', 'are')} whole, {_damaged(bad)}{end}")
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
    folder = answers_folder()
    count = size = freed = 0
    if _has_answers(folder):
        # Alone: a run counts on every answer that it has seen here.
        with closing(AnswerCache(folder, alone=not dry_run)) as answers:
            before = answers.file_bytes
            for old in find_older(answers, time.time() - seconds):
                count += len(old) if dry_run else answers.remove(old)
                size += sum(len(entry.encoded or b"") for entry in old)
            if count and not dry_run:
                answers.give_back()
                freed = max(0, before - answers.file_bytes)
    what = f"{many(count, 'answer')}, {byte_size(size)}"
    if as_json:
        told = {"answers": count, "bytes": size, "freed_bytes": freed, "dry_run": dry_run}
        _print_json(told | {"exit": 0})
    elif dry_run:
        are = agreeing(count, "is", "are")
        print(f"{what}, {are} older than {older_than} and would be removed")
    else:
        print(f"{what}, removed; the file is {byte_size(freed)} smaller")
    return 0


def age_seconds(age: str) -> float:
    """`90d` in seconds. Raises: UsageError, also for `m`, which means minutes or months."""
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

    folder = answers_folder()
    if not _has_answers(folder):
        raise UsageError(f"{printable(str(folder))}: no answers are kept yet")
    if file == "-" and (as_json or sys.stdout.isatty()):
        why = "--json and file `-` both want stdout" if as_json else "no file for a terminal"
        raise UsageError(why, hint="textmill cache export answers.textmill")
    with closing(AnswerCache(folder)) as answers, _written(file, folder) as out:
        written = export(answers, out)
    code = 3 if written.damaged else 0
    if written.damaged:
        print_message(
            f"{many(written.damaged, 'damaged entry', 'damaged entries')} "
            f"{agreeing(written.damaged, 'was', 'were')} left out: textmill cache verify"
        )
    if as_json:
        _print_json(written, exit=code)
    else:
        print_message(f"{many(written.answers, 'answer')} written, {byte_size(written.bytes)}")
    return code


@contextmanager
def _written(file: str, folder: Path) -> Iterator[BinaryIO]:
    """The open file; it has its name only once it is whole and durable."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{printable(file)}: lies in the folder of the answers themselves")
    if path.is_dir() or (path.exists() and not _is_export(path)):
        raise UsageError(
            f"{printable(file)}: exists and is no file of `textmill cache export`",
            hint="name another file, or remove it",
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

    told = 0

    def tell(line: str) -> None:
        nonlocal told
        told += 1
        if told <= TOLD:
            print_message(printable(line, 300))

    with tempfile.TemporaryDirectory(prefix="textmill-", ignore_cleanup_errors=True) as spool:
        path = Path(file)
        if file == "-":  # read twice
            path = Path(spool, "stdin")
            with storage_errors(path), path.open("wb") as out:
                shutil.copyfileobj(sys.stdin.buffer, out)
        check(path)
        with closing(AnswerCache(answers_folder())) as answers:
            taken = import_answers(answers, path, tell)
    code = 3 if taken.damaged else 0
    if told > TOLD:
        print_message(f"and {told - TOLD:,} more")
    if as_json:
        _print_json(taken, exit=code)
        return code
    new = f"{taken.added:,} {agreeing(taken.added, 'was', 'were')} new"
    print(f"{many(taken.answers, 'answer')} read, {new}", end="")
    bad = agreeing(taken.damaged, "is damaged and was", "are damaged and were")
    print(f", {taken.damaged:,} {bad} passed over" if taken.damaged else "")
    if taken.other:
        have = agreeing(taken.other, "has", "have")
        print(f"{taken.other:,} {have} another answer here, which stays")
    return code


def _has_answers(folder: Path) -> bool:
    return (folder / "cache.db").exists()


def _print_json(told: object, **more: object) -> None:
    print(msgspec.json.encode(dict(msgspec.to_builtins(told)) | more).decode(), flush=True)


def _damaged(entries: int) -> str:
    return f"{many(entries, 'entry', 'entries')} {agreeing(entries, 'is', 'are')} damaged"


def _day(seconds: float) -> str:
    with suppress(OverflowError, ValueError, OSError):
        return time.strftime("%Y-%m-%d", time.gmtime(seconds))
    return "at no time"
