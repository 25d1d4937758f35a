"""Temporary files for standard input and output, and the cleanup after a kill.

A stream can be read once, but the input is read twice; a stream cannot be published by a rename. So
both are files in a private folder of this process. `kill -9` leaves such a folder behind, with
private texts in it; the next process removes it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from jobs.home import home
from jobs.spec.job import Job
from pipeline.disk import locks
from pipeline.disk.durable import storage_errors
from pipeline.errors import InputError, TextmillError
from pipeline.source.diagnosis import HEAD_BYTES, diagnose
from pipeline.text import reason

MAGIC = {b"PAR1": ".parquet", b"\x1f\x8b": ".json.gz", b"\x28\xb5\x2f\xfd": ".json.zst"}
"""The file type of standard input by its first bytes."""

PREFIX = "textmill-"
KEPT_FAILURES = 30
"""The number of runs to standard output whose failures are kept for later reading."""
_YOUNG_SECONDS = 3_600
"""A younger folder without a lock may be one that another process is creating."""


@contextmanager
def with_files_for_streams(job: Job) -> Iterator[tuple[Job, Callable[[], None]]]:
    """The job with files instead of `-`, and a function that copies the result to stdout. Every run
    removes what killed runs left of theirs."""
    with suppress(OSError, TextmillError):
        _sweep(Path(tempfile.gettempdir()))
        _sweep(home() / "streams")
    with with_input_file(job) as placed_job, _with_output_file(placed_job) as job_with_files:
        yield job_with_files


@contextmanager
def with_input_file(job: Job) -> Iterator[Job]:
    """The job with a file instead of input `-`: for commands that write no output. It needs no home
    folder."""
    if job.input.path != "-":
        yield job
        return
    with _private_folder(Path(tempfile.gettempdir())) as folder:
        yield replace(job, input=replace(job.input, path=_spool(folder)))


@contextmanager
def _with_output_file(job: Job) -> Iterator[tuple[Job, Callable[[], None]]]:
    if job.output.path != "-":
        yield job, _publish_nothing
        return
    streams = home() / "streams"
    with storage_errors(streams):
        streams.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _private_folder(streams) as folder:
        path = folder / "out.jsonl"

        def publish() -> None:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()

        yield replace(job, output=replace(job.output, path=str(path))), publish


@contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """A private folder of this process. At its end only files of failures are kept."""
    with storage_errors(parent):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Locked before it has its final name, so that no process takes it for a dead one.
        descriptor = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        locks.acquire(descriptor)
        (folder / "new").rename(folder / "lock")
    try:
        yield folder
    finally:
        _clear(folder)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Removes the folders of dead processes. Never fails, because it is only cleanup."""
    with_failures: list[tuple[float, Path]] = []
    with suppress(OSError):
        for folder in parent.glob(f"{PREFIX}*"):
            with suppress(OSError):
                status = folder.lstat()
                is_ours = folder.is_dir() and not folder.is_symlink()
                if not is_ours or status.st_uid != os.getuid():
                    continue
                if _is_dead(folder, status.st_mtime):
                    _clear(folder)
                if folder.exists() and not (folder / "lock").exists() and _failures(folder):
                    with_failures.append((status.st_mtime, folder))
    for _, folder in sorted(with_failures)[:-KEPT_FAILURES]:
        shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path, modified: float) -> bool:
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - modified > _YOUNG_SECONDS
    try:
        return locks.is_held(descriptor) is False
    finally:
        os.close(descriptor)


def _failures(folder: Path) -> list[Path]:
    return list(folder.glob("*.run/runs/*/failures.jsonl"))


def _clear(folder: Path) -> None:
    """Removes everything except files of failures."""
    if not _failures(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.suffix == ".run":
            shutil.rmtree(path / "parts", ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _publish_nothing() -> None:
    pass


class _Input:
    """Standard input, with its own errors: those of the copy concern the disk."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes. Raises: InputError."""
        try:
            return sys.stdin.buffer.read(size)
        except OSError as error:
            raise InputError(f"standard input: cannot be read ({reason(error)})") from None


def _spool(folder: Path) -> str:
    """The path of a copy of standard input, which can be read twice."""
    temporary = folder / "stdin"
    with storage_errors(folder), temporary.open("wb") as file:
        shutil.copyfileobj(_Input(), file, 1 << 20)
    with temporary.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found = diagnose(head)
    usual = ".json" if found is not None and found.what == "a JSON array" else ".jsonl"
    suffix = next((end for magic, end in MAGIC.items() if head.startswith(magic)), usual)
    return str(temporary.rename(folder / f"stdin{suffix}"))
