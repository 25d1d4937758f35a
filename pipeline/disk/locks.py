"""File locks that the kernel releases when their process ends, however it ends."""

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
    """Takes the lock of an open file at once, until the descriptor is closed.

    Raises: BlockingIOError where another process holds it; OSError where locks do not work.
    """
    fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def wait_for(descriptor: int) -> None:
    """Takes the lock of an open file as soon as its holder releases it. Raises: OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def is_held(descriptor: int) -> bool | None:
    """Whether a living process holds the lock of an open file for itself alone.

    `descriptor` holds no lock itself. The question takes a shared lock for a moment; an owner that
    must not be refused in that moment calls `wait_for`.
    None: the file system has no locks, so the answer is unknown.
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
    """Holds the run folder; the kernel lets go of it also on kill -9.

    A folder in which nothing but the lock was ever written is removed again.
    Raises: LockedError at once where another run holds it.
    """
    path = Path(run_folder) / "lock"
    descriptor = _open_lock_file(path)
    try:
        try:
            acquire(descriptor)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0)
            raise LockedError(f"{shown(str(run_folder))}: held by {_holder_name(holder)}") from None
        except OSError as error:
            raise StorageError(f"{shown(str(path))}: {reason(error)}") from None
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": int(time.time())}
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(mine), 0)
        if not _is_same(path, descriptor):  # its last holder removed it meanwhile
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
    """A descriptor that says, as long as it is open, that this process uses the cache's folder.

    Who wants it alone is refused while others have it; the others wait for who has it alone.
    Raises: LockedError, OSError.
    """
    file = os.open(folder / "cache.db.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    ends = time.monotonic() + (ALONE_SECONDS if alone else patience_seconds)
    try:
        while True:
            try:
                acquire(file, is_shared=not alone)
                return file
            except BlockingIOError:
                if time.monotonic() > ends:
                    why = "by a run or another command" if alone else "by what removes answers"
                    raise LockedError(
                        f"{shown(str(folder))}: the answers are in use {why}",
                        hint="try again when it has ended",
                    ) from None
            time.sleep(0.02)
    except BaseException:
        os.close(file)
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
        if [each.name for each in path.parent.iterdir()] == [path.name]:
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
