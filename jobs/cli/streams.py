"""Standard input and standard output as files, and what a kill left of those.

A stream can be read once and the input is read twice; a stream cannot be published by a rename. So
both stand for a while in a folder of this process. `kill -9` leaves such a folder behind, with
somebody's texts in it: the next process removes it.
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
from pipeline.errors import StorageError

MAGIC = {b"PAR1": ".parquet", b"\x1f\x8b": ".jsonl.gz", b"\x28\xb5\x2f\xfd": ".jsonl.zst"}
"""How standard input says what it is."""

PREFIX = "textmill-"
KEPT_FAILURES = 30
"""So many runs to standard output keep their failures to be read afterwards."""
_YOUNG_SECONDS = 3_600
"""A folder without a lock may be one that is just being made."""


@contextmanager
def with_files_for_streams(job: Job) -> Iterator[tuple[Job, Callable[[], None]]]:
    """The job with files in the place of `-`, and what copies the result to stdout."""
    if job.input.path == "-":
        with _claimed(Path(tempfile.gettempdir())) as folder:
            job = replace(job, input=replace(job.input, path=_spool(folder)))
            with _written(job) as placed_job:
                yield placed_job
    else:
        with _written(job) as placed_job:
            yield placed_job


@contextmanager
def _written(job: Job) -> Iterator[tuple[Job, Callable[[], None]]]:
    if job.output.path != "-":
        yield job, _nothing
        return
    streams = home() / "streams"
    try:
        streams.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"{streams}: cannot be written: {error.strerror}") from None
    with _claimed(streams) as folder:
        path = folder / "out.jsonl"

        def publish() -> None:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()

        yield replace(job, output=replace(job.output, path=str(path))), publish


@contextmanager
def _claimed(parent: Path) -> Iterator[Path]:
    """A private folder of this process, removed at its end but for failures to be read."""
    _sweep(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # Locked before it has its name, so that nobody takes a folder for a dead one's.
        descriptor = os.open(folder / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        locks.acquire(descriptor)
        (folder / "new").rename(folder / "lock")
    except OSError as error:
        raise StorageError(f"{parent}: cannot be written: {error.strerror}") from None
    try:
        yield folder
    finally:
        _clear(folder)
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    """Removes what processes that are no more left there. Never fails: it is only tidying up."""
    read: list[tuple[float, Path]] = []
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
                    read.append((status.st_mtime, folder))
    for _, folder in sorted(read)[:-KEPT_FAILURES]:
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
    """Leaves nothing but failures that somebody may want to read."""
    if not _failures(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for each in folder.iterdir():
        if each.suffix == ".run":
            shutil.rmtree(each / "parts", ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


def _nothing() -> None:
    pass


def _spool(folder: Path) -> str:
    """Standard input as a file: it is read twice, and a stream can be read once."""
    temporary = folder / "stdin"
    try:
        with temporary.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with temporary.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise StorageError(f"{folder}: cannot spool standard input: {error.strerror}") from None
    suffix = next((end for magic, end in MAGIC.items() if start.startswith(magic)), ".jsonl")
    return str(temporary.rename(folder / f"stdin{suffix}"))
