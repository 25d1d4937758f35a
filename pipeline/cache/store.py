"""Every answer ever paid for, by key: the journal of all runs.

An answer counts only after it is durable here. diskcache gives the SQLite file, the schema and the
tools that people know; what it does by default (pickle, eviction at 1 GiB, lazy syncs) would lose
answers or run code from the file, so each of these is switched off here. See
`docs/decisions/0001-diskcache.md`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import diskcache

from pipeline.cache.entry import (
    MARK,
    PREFIX,
    RAW,
    SERVER,
    Entry,
    decode_entry,
    encode_entry,
    entry_of,
)
from pipeline.cache.sql import (
    HOLDS,
    LOOK_UP_KEYS,
    READ,
    READ_SIZES,
    REMOVE,
    STORED_ROWS,
    batches,
    look_up,
    upsert,
)
from pipeline.disk.durable import sync_folder
from pipeline.disk.locks import lock_cache_folder
from pipeline.errors import StateError, StorageError, TextmillError
from pipeline.records import Answer, Split

BUSY_SECONDS = 60
"""So long a look-up or a commit waits for another process that writes; then storage has failed."""

ENTRIES_AT_ONCE = 256
ENTRY_BYTES_AT_ONCE = 8 << 20


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """What SQLite and the system refuse, as an error of ours."""
    try:
        yield
    except (OSError, sqlite3.Error, diskcache.Timeout) as error:
        raise _cache_error(folder, error) from error


class RawDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores and accepts raw bytes only; whatever else lies in the file counts as absent.

    diskcache 5.6.3 unpickles what it reads (CVE-2025-69872): a file that somebody else can write
    would run code. Refusing only on the way in would not help.
    """

    def put(self, key: Any) -> tuple[sqlite3.Binary, bool]:
        if type(key) is not bytes:
            raise TypeError(f"a key must be bytes, got {type(key).__name__}")
        return sqlite3.Binary(key), True

    def get(self, key: Any, raw: bool) -> bytes:
        if not raw or type(key) is not bytes:
            raise OSError("not a raw key")
        return key

    def store(
        self, value: Any, read: bool, key: Any = None
    ) -> tuple[int, int, None, sqlite3.Binary]:
        if type(value) is not bytes or read:
            raise TypeError(f"a value must be bytes, got {type(value).__name__}")
        return len(value), RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        if mode != RAW or filename is not None or type(value) is not bytes:
            raise OSError("not a raw value")  # diskcache takes an OSError for a miss
        return value


class AnswerCache:
    """Answers by key. Calls block on SQLite: use it from worker threads, one writer at a time.

    Who opens it `alone` may remove answers: it is refused while others have it open, and they wait.
    Raises: StorageError when the folder or the file cannot be used, or the disk is full;
    StateError where the file is damaged; LockedError where others have it.
    Cost: a look-up that misses 1.5 us, a hit 4 us, a stored answer 14 us in groups of 64.
    """

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self.folder = folder
        self._lock: int | None = None
        try:
            is_new = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            self._lock = lock_cache_folder(folder, BUSY_SECONDS, alone=alone)
            # diskcache creates the file with the process's umask; answers are private.
            mask = os.umask(0o077)
            try:
                self._store = diskcache.Cache(
                    str(folder),
                    timeout=BUSY_SECONDS,
                    disk=RawDisk,
                    eviction_policy="none",
                    size_limit=1 << 62,
                    cull_limit=0,
                    statistics=0,
                    tag_index=0,
                    sqlite_synchronous=2,
                    sqlite_wal_autocheckpoint=4_000,  # pages: 16 MB of log, a quarter of the syncs
                    sqlite_cache_size=1 << 9,  # pages of 4 kB, for each thread that reads
                    sqlite_mmap_size=0,  # 64 MB by default, all of which count as ours
                    disk_min_file_size=1 << 62,
                )
            finally:
                os.umask(mask)
            if is_new:  # SQLite makes the names in the folder durable, but not the folder's own
                for parent in (folder.parent, folder.parent.parent):
                    with suppress(PermissionError):
                        sync_folder(parent)
            self._store.set(MARK, b"1")  # a read-only folder must show before money is spent
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._release_lock()
            raise _cache_error(folder, error) from error

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Answer | Split]:
        """The answers there are; a damaged entry counts as absent and is paid again."""
        found: dict[bytes, Answer | Split] = {}
        wanted = list(keys)
        with _storage_errors(self.folder):
            execute = self._store._sql
            for some in batches(wanted, LOOK_UP_KEYS):
                (row,) = execute(look_up(len(some)), [*some, time.time()]).fetchall()
                for key, encoded in zip(some, row, strict=True):
                    if type(encoded) is bytes:
                        answer = decode_entry(key, encoded)
                        if answer is not None:
                            found[key] = answer
        return found

    def contains(self, key: bytes) -> bool:
        """Whether anything stands under this key, also what `get_many` passes over as damaged."""
        with _storage_errors(self.folder):
            return bool(self._store._sql(HOLDS, (key,)).fetchall())

    def put_many(self, answers: Sequence[tuple[bytes, Answer | Split]]) -> None:
        """Return when all of them are durable: one transaction, one sync."""
        now = time.time()
        rows = [(key, now, encode_entry(key, answer)) for key, answer in answers]
        with _storage_errors(self.folder), self._store.transact():
            self._put(rows)

    def add_many(self, entries: Sequence[Entry]) -> tuple[int, int]:
        """Keep the answers that are not here yet, with the time at which they were stored; how
        many were added, and how many stand here with another answer, which stays."""
        with _storage_errors(self.folder), self._store.transact():
            here = self.get_many(entry.key for entry in entries)
            new = [entry for entry in entries if entry.key not in here]
            self._put([(each.key, each.stored, each.encoded or b"") for each in new])
        other = sum(e.key in here and here[e.key] != e.answer for e in entries)
        return len({entry.key for entry in new}), other

    def _put(self, rows: Sequence[tuple[bytes, float, bytes]]) -> None:
        execute = self._store._sql
        for some in batches(rows, STORED_ROWS):
            values: list[Any] = []
            for key, stored, encoded in some:
                values += (key, stored, len(encoded), encoded)
            execute(upsert(len(some)), values)

    def entries(self) -> Iterator[list[Entry]]:
        """All rows that stand now, the oldest first, in runs of at most some hundred and some MB.

        Others may write meanwhile: no lock is held from run to run.
        """
        execute = self._store._sql
        with _storage_errors(self.folder):
            ((last,),) = execute("SELECT max(rowid) FROM Cache").fetchall()
            row = -1
            while last is not None and row < last:
                sizes = execute(READ_SIZES, (row, last, ENTRIES_AT_ONCE)).fetchall()
                if not sizes:
                    return
                first, row = row, sizes[0][0]
                size = 0
                for each, length in sizes:
                    size += length or 0
                    if size > ENTRY_BYTES_AT_ONCE:
                        break
                    row = each
                yield [entry_of(*found) for found in execute(READ, (first, row)).fetchall()]

    def remove(self, entries: Sequence[Entry]) -> int:
        """Remove these rows, except where one was stored again since it was read; how many."""
        with _storage_errors(self.folder), self._store.transact():
            execute = self._store._sql
            return sum(execute(REMOVE, (each.row, each.stored)).rowcount for each in entries)

    def faults(self) -> list[str]:
        """What SQLite finds wrong with its file; it does not look into values. Cost: reads all."""
        try:
            found = self._store._sql("PRAGMA integrity_check(20)").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [str(each) for (each,) in found if each != "ok"]

    def shrink_file(self) -> None:
        """Let the file system have what removed rows took, as far as nobody reads them still."""
        with _storage_errors(self.folder):
            # diskcache's file truncates itself (auto_vacuum) when the log is written back.
            self._store._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def file_bytes(self) -> int:
        """What the files of the cache take on the disk."""
        return sum(file.stat().st_size for file in self.folder.glob("cache.db*"))

    def remember_prefix(self, prefix: bytes) -> None:
        """Keep what stands before the input in keys, so that a miss can be explained."""
        name = PREFIX + hashlib.sha256(prefix).hexdigest()[:32].encode()
        with _storage_errors(self.folder):
            if self._store.get(name) != prefix:
                self._store.set(name, prefix)

    def prefixes(self) -> list[bytes]:
        """Every prefix that was remembered, the oldest first."""
        with _storage_errors(self.folder):
            found = self._store._sql(
                "SELECT value FROM Cache WHERE key >= ? AND key < ? AND raw = 1 ORDER BY rowid",
                (PREFIX, PREFIX[:-1] + b"!"),
            ).fetchall()
        return [value for (value,) in found if type(value) is bytes]

    def remember(self, name: str, value: bytes) -> None:
        """Keep what a server said of itself under a name of its own."""
        with _storage_errors(self.folder):
            self._store.set(SERVER + name.encode(), value)

    def recall(self, name: str) -> bytes | None:
        """What was kept under this name."""
        with _storage_errors(self.folder):
            value: bytes | None = self._store.get(SERVER + name.encode())
        return value

    def close(self) -> None:
        self._store.close()
        self._release_lock()

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _cache_error(folder: Path, error: Exception) -> TextmillError:
    if type(error) is sqlite3.DatabaseError:  # its subclasses are other troubles
        return StateError(
            f"{folder}: the file of answers is damaged: {error}",
            hint="textmill cache verify --repair keeps what can be read",
        )
    is_busy = isinstance(error, diskcache.Timeout) or "is locked" in str(error)
    reason = "busy for too long" if is_busy else str(error)
    return StorageError(
        f"{folder}: the answer cache cannot be used: {reason}",
        hint="free space, or set TEXTMILL_HOME to a folder on another disk; no kept answer is lost",
    )
