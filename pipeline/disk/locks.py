"""File locks, which the kernel releases when their process ends, also on kill -9."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pipeline.disk.durable import storage_errors
from pipeline.errors import LockedError, StorageError
from pipeline.text import printable, reason, shown

ALONE_SECONDS = 0.5


def acquire(descriptor: int, *, is_shared: bool = False) -> None:
    """Takes the lock of an open file, without waiting, until the descriptor is closed.

    Raises: BlockingIOError where another process holds it; OSError where locks do not work.
    """
    fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def wait_for(descriptor: int) -> None:
    """Takes the lock of an open file, waiting until its holder releases it. Raises: OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_held(descriptor: int) -> bool | None:
    """Whether a living process holds the exclusive lock of an open file; None where the file system
    has no locks.

    `descriptor` holds no lock itself. The check takes a shared lock for a moment; an owner that
    must not be refused in that moment calls `wait_for`.
    """
    try:
        acquire(descriptor, is_shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


@contextmanager
def lock_run_folder(run_folder: Path) -> Iterator[None]:
    """Holds the lock of the run folder; the kernel releases it also on kill -9.

    A folder that holds nothing but the lock file is removed afterwards.
    Raises: LockedError, without waiting, where another run holds it.
    """
    path = Path(run_folder) / "lock"
    descriptor = _open_lock_file(path)
    try:
        try:
            acquire(descriptor)
        except BlockingIOError:
            raw = os.pread(descriptor, 4096, 0)
            raise LockedError(f"{shown(str(run_folder))}: held by {_holder_name(raw)}") from None
        except OSError as error:
            raise StorageError(f"{shown(str(path))}: {reason(error)}") from None
        holder_record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": int(time.time()),
        }
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(holder_record), 0)
        if not _is_same(path, descriptor):  # its last holder removed the file meanwhile
            raise LockedError(f"{shown(str(run_folder))}: held by another run")
        yield
        _remove_unused(path)
    except LockedError:
        raise
    except BaseException:
        _remove_unused(path)
        raise
    finally:
        os.close(descriptor)


def lock_cache_folder(folder: Path, patience_seconds: float, *, alone: bool = False) -> int:
    """A descriptor that holds the lock of the cache folder until it is closed.

    `alone` takes the lock exclusively and fails while other processes share it; without it the lock
    is shared and waits for an exclusive holder.
    Raises: LockedError, OSError.
    """
    descriptor = os.open(folder / "cache.db.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + (ALONE_SECONDS if alone else patience_seconds)
    try:
        while True:
            try:
                acquire(descriptor, is_shared=not alone)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    user = (
                        "by a run or another command"
                        if alone
                        else "by a command that removes answers"
                    )
                    raise LockedError(
                        f"{shown(str(folder))}: the answers are in use {user}",
                        hint="try again when it has ended",
                    ) from None
            time.sleep(0.02)
    except BaseException:
        os.close(descriptor)
        raise


def _open_lock_file(path: Path) -> int:
    with storage_errors(path):
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> None:
    with suppress(OSError):
        if [file.name for file in path.parent.iterdir()] == [path.name]:
            path.unlink()
            path.parent.rmdir()


class _Holder(msgspec.Struct):
    host: str
    pid: int
    since: int


def _holder_name(raw: bytes) -> str:
    try:
        holder = msgspec.json.decode(raw, type=_Holder)
        since = time.localtime(holder.since)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, OSError):
        return "another run"
    is_today = time.strftime("%F", since) == time.strftime("%F")
    when = time.strftime("%H:%M" if is_today else "%F %H:%M", since)
    return f"another run (host {printable(holder.host, 80)}, pid {holder.pid}, since {when})"
