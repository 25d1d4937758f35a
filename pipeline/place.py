"""Where an output goes: the folder of its run, the lock on it, and the rename that publishes.

A path is refused here before any money is spent, and only here is anything put under the output's
own name, so that what stands there is always whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

import msgspec

from pipeline.errors import LockedError, StorageError, UsageError
from pipeline.escape import printable
from pipeline.files import reason, shown

ALONE_SECONDS = 0.5


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns what the system refuses into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{shown(str(path))}: cannot be written ({reason(error)})",
            hint="free space and run again; every answer so far is kept" if is_full else None,
        ) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private(path: Path) -> IO[bytes]:
    """The file, opened anew for writing; who may read the output need not read the run's state."""
    return open(path, "wb", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Place:
    """Where the output goes: its run folder, its parts, and how it is published."""

    def __init__(self, output: str, run_id: str) -> None:
        self.path = Path(output.rstrip("/") or "/")
        suffix = "" if output.endswith("/") else self.path.suffix.lower()
        if suffix not in (".parquet", ".jsonl") and suffix[1:2].isalpha():
            raise UsageError(
                f"{shown(output)}: output.path ends in `{printable(suffix)}`,"
                " which is not .parquet, .jsonl or a folder"
            )
        self.suffix = suffix if suffix in (".parquet", ".jsonl") else ""
        self.run_folder = Path(f"{self.path}.run")
        self.parts = self.run_folder / "parts"
        self.part_suffix = self.suffix or ".parquet"
        self.version = self.run_folder / "versions" / run_id
        self.temporary = self.path.with_name(f".{self.path.name}.textmill.tmp")

    def part_path(self, part: int) -> Path:
        """Where a part is written; finished, it is named by its hash."""
        return self.parts / f"{part:05d}{self.part_suffix}"

    def part_name(self, part: int) -> str:
        """The name of a part in a directory output."""
        return f"part-{part:05d}.parquet"

    def prepare(self, given: str, inputs: Sequence[str]) -> None:
        """Refuses before any call what would fail at the commit, and clears what a killed run left.

        `given` is the input's path as the job names it, `inputs` are its files.
        """
        path = self.path
        with storing(path):
            real = path.resolve()
            if any(real in (p, *p.parents) for p in (Path(each).resolve() for each in inputs)):
                raise UsageError(f"{shown(str(path))}: output.path is also the input")
            folder = Path(given)
            among = fnmatch(str(path), given) or (
                folder.is_dir() and folder.resolve() == real.parent
            )
            if among and self.suffix and inputs[0].lower().find(self.suffix) >= 0:
                raise UsageError(
                    f"{shown(str(path))}: output.path would be read as input next time"
                )
            run_folders = [p for p in path.absolute().parents if p.name.endswith(".run")]
            if any((p / "lock").exists() for p in run_folders):
                raise UsageError(f"{shown(str(path))}: output.path lies in a run folder")
            if path.is_symlink() and not (self.suffix == "" and self._is_ours()):
                raise UsageError(f"{shown(str(path))}: output.path is a symbolic link")
            if path.exists() and (path.is_dir() != (self.suffix == "") or not path.is_symlink()):
                if path.is_dir() and (self.suffix or any(path.iterdir())):
                    raise UsageError(
                        f"{shown(str(path))}: a folder that textmill did not make",
                        hint="name a folder that does not exist yet, or an empty one",
                    )
                if self.suffix == "" and not path.is_dir():
                    raise UsageError(f"{shown(str(path))}: a file stands where a folder must go")
        with storing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with storing(path.parent):
            self.clean()
            self.temporary.touch(exist_ok=False)
            self.temporary.unlink()
        with storing(self.parts):
            self.run_folder.mkdir(mode=0o700, exist_ok=True)
            self.parts.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in self.parts.iterdir():  # one for each run, as earlier versions made them
                if folder.is_dir():
                    shutil.rmtree(folder, ignore_errors=True)
            if self.suffix == "":
                self.run_folder.chmod(0o755)  # what the output's link leads to must be readable
                self.version.parent.mkdir(exist_ok=True)

    def exists(self) -> bool:
        """Whether an output stands."""
        return self.path.exists()

    def linked_version(self) -> str | None:
        """The version that a directory output links to."""
        return self.path.readlink().name if self.path.is_symlink() and self._is_ours() else None

    def published(self) -> list[Path]:
        """The files of the output that stands."""
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        return [file for file in files if file.is_file()]

    def switch(self) -> None:
        """Points a directory output at this run's version and removes older ones."""
        before = self.path.readlink().name if self.path.is_symlink() else None
        with storing(self.path):
            sync_folder(self.version)
            sync_folder(self.version.parent)
            self.temporary.symlink_to(Path(self.run_folder.name, "versions", self.version.name))
            if self.path.is_dir() and not self.path.is_symlink():
                self.path.rmdir()  # an empty one: a link cannot be renamed onto it
            self.temporary.replace(self.path)
            sync_folder(self.path.parent)
        for old in self.version.parent.iterdir():
            if old.name not in (self.version.name, before):
                shutil.rmtree(old, ignore_errors=True)

    def link_part(self, part: Path, target: Path) -> None:
        """Puts a finished part into the version without writing it again."""
        with storing(target):
            try:
                target.hardlink_to(part)
            except OSError:  # not every file system has hard links
                shutil.copyfile(part, target)
                with target.open("rb") as file:
                    os.fsync(file.fileno())

    def clean(self) -> None:
        """Removes what is not finished; finished parts are of use to the next run."""
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)
        with suppress(OSError):
            for half in self.parts.glob("*.tmp"):
                half.unlink(missing_ok=True)

    def sweep(self, names: Collection[str]) -> None:
        """After a commit: removes the parts that are not of these names (without suffix)."""
        with suppress(OSError):
            for each in self.parts.iterdir():
                if each.stem not in names:
                    each.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        return self.path.readlink().parent == Path(self.run_folder.name, "versions")


@contextmanager
def lock(run_folder: Path) -> Iterator[None]:
    """Holds the run folder; the kernel lets go of it also on kill -9.

    A folder in which nothing but the lock was ever written is removed again.
    Raises: LockedError at once where another run holds it.
    """
    path = Path(run_folder) / "lock"
    descriptor = _opened(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0)
            raise LockedError(f"{shown(str(run_folder))}: held by {_holder(holder)}") from None
        except OSError as error:
            raise StorageError(f"{shown(str(path))}: {reason(error)}") from None
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": int(time.time())}
        with storing(path):
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


def used(folder: Path, patience_seconds: float, *, alone: bool = False) -> int:
    """A descriptor that says, as long as it is open, that this process uses the cache's folder.

    Who wants it alone is refused while others have it; the others wait for who has it alone.
    Raises: LockedError, OSError.
    """
    file = os.open(folder / "cache.db.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    ends = time.monotonic() + (ALONE_SECONDS if alone else patience_seconds)
    try:
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
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


def _opened(path: Path) -> int:
    with storing(path):
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


def _holder(raw: bytes) -> str:
    try:
        holder = msgspec.json.decode(raw, type=_Holder)
        since = time.localtime(holder.since)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, OSError):
        return "another run"
    is_today = time.strftime("%F", since) == time.strftime("%F")
    when = time.strftime("%H:%M" if is_today else "%F %H:%M", since)
    return f"another run (host {printable(holder.host, 80)}, pid {holder.pid}, since {when})"
