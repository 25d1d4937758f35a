"""The answer cache: every answer ever paid for, by key.

An answer counts only once it is durable here. diskcache provides the SQLite file, its schema and
familiar tools; its defaults (pickle, eviction at 1 GiB, lazy syncs) would lose answers or execute
code from the file, so each of them is turned off. See
`docs/decisions/0001-diskcache.md`.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
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
from pipeline.cache.faults import BUSY_SECONDS, FORMAT, cache_error, cache_errors, check_schema
from pipeline.cache.sql import (
    HOLDS,
    LOOK_UP_KEYS,
    NAMES_FROM,
    READ,
    READ_SIZES,
    REMOVE,
    STORED_ROWS,
    batches,
    insert,
    look_up,
    upsert,
)
from pipeline.disk.durable import sync_folder
from pipeline.disk.locks import lock_cache_folder
from pipeline.records import Answer, Split

ENTRIES_AT_ONCE = 256
ENTRY_BYTES_AT_ONCE = 8 << 20

IsUsable = Callable[[bytes, Answer | Split], bool]
"""Whether the answer that is stored under this key serves the caller."""


class RawDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores and accepts raw bytes only; any other value in the file counts as absent.

    diskcache 5.6.3 unpickles what it reads (CVE-2025-69872), so a file that somebody else can write
    would execute code. Rejecting other values only on writing would not help.
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
            raise OSError("not a raw value")  # diskcache treats an OSError as a miss
        return value


class AnswerCache:
    """Answers by key. Calls block on SQLite: use it from worker threads, one writer at a time.

    Opened `alone`, it may remove answers; this fails while other processes have it open, and later
    ones wait.
    Raises: StorageError when the folder or the file cannot be used, or the disk is full;
    StateError where the file is damaged; LockedError where other processes have it open.
    Cost: 1.5 us for a miss, 4 us for a hit, 14 us for each stored answer in groups of 64.
    """

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self.folder = folder
        self._lock: int | None = None
        check_schema(folder)
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
                    sqlite_mmap_size=0,  # by default 64 MB, which count as memory of this process
                    disk_min_file_size=1 << 62,
                )
            finally:
                os.umask(mask)
            if is_new:  # SQLite syncs the names in the folder, but not the folder's own name
                for parent in (folder.parent, folder.parent.parent):
                    with suppress(PermissionError):
                        sync_folder(parent)
            self._store.set(MARK, FORMAT)  # a read-only folder must fail before money is spent
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._release_lock()
            raise cache_error(folder, error) from error

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Answer | Split]:
        """The answers under these keys; a damaged entry counts as absent and is paid again."""
        answers: dict[bytes, Answer | Split] = {}
        all_keys = list(keys)
        with cache_errors(self.folder):
            execute = self._store._sql
            for batch in batches(all_keys, LOOK_UP_KEYS):
                (row,) = execute(look_up(len(batch)), [*batch, time.time()]).fetchall()
                for key, encoded in zip(batch, row, strict=True):
                    if type(encoded) is bytes:
                        answer = decode_entry(key, encoded)
                        if answer is not None:
                            answers[key] = answer
        return answers

    def contains(self, key: bytes) -> bool:
        """Whether any entry has this key, also a damaged one, which `get_many` skips."""
        with cache_errors(self.folder):
            return bool(self._store._sql(HOLDS, (key,)).fetchall())

    def put_many(
        self,
        answers: Sequence[tuple[bytes, Answer | Split]],
        is_usable: IsUsable = lambda key, stored: True,
    ) -> dict[bytes, Answer | Split]:
        """Store the answers whose key has none; all are durable when this returns.

        The first answer stays: another process may have published it. Only an entry that is damaged
        or not usable is replaced.
        Returns: for each key that had an entry, the answer that is stored now.
        Cost: one transaction, one sync.
        """
        now = time.time()
        rows = [(key, now, encode_entry(key, answer)) for key, answer in answers]
        with cache_errors(self.folder), self._store.transact():
            if self._put(rows, insert) == len(rows):
                return {}
            stored = self.get_many(key for key, _ in answers)
            first = dict(reversed(answers))
            replaced = {
                key: answer
                for key, answer in first.items()
                if key not in stored or not is_usable(key, stored[key])
            }
            self._put([row for row in rows if row[0] in replaced][::-1], upsert)
        return stored | replaced

    def add_many(self, entries: Sequence[Entry]) -> tuple[int, int]:
        """Add the answers that are missing, with their original times. Returns: the number added,
        and the number for which the cache holds, and keeps, a different answer."""
        with cache_errors(self.folder), self._store.transact():
            present = self.get_many(entry.key for entry in entries)
            new: dict[bytes, Entry] = {}
            for entry in entries:
                if entry.key not in present:
                    new.setdefault(entry.key, entry)
            self._put([(e.key, e.stored, e.encoded or b"") for e in new.values()], upsert)
        other = sum(_differ(present.get(entry.key), entry.answer) for entry in entries)
        return len(new), other

    def _put(
        self, rows: Sequence[tuple[bytes, float, bytes]], statement: Callable[[int], str]
    ) -> int:
        """The number of rows that were stored."""
        execute, stored = self._store._sql, 0
        for batch in batches(rows, STORED_ROWS):
            values: list[Any] = []
            for key, when, encoded in batch:
                values += (key, when, len(encoded), encoded)
            stored += execute(statement(len(batch)), values).rowcount
        return stored

    def entries(self) -> Iterator[list[Entry]]:
        """All current rows, the oldest first, in batches of at most 256 rows and 8 MB.

        Other processes may write meanwhile: no lock is held between batches.
        """
        execute = self._store._sql
        with cache_errors(self.folder):
            ((last,),) = execute("SELECT max(rowid) FROM Cache").fetchall()
            row = -1
            while last is not None and row < last:
                sizes = execute(READ_SIZES, (row, last, ENTRIES_AT_ONCE)).fetchall()
                if not sizes:
                    return
                first, row = row, sizes[0][0]
                size = 0
                for number, length in sizes:
                    size += length or 0
                    if size > ENTRY_BYTES_AT_ONCE:
                        break
                    row = number
                yield [entry_of(*columns) for columns in execute(READ, (first, row)).fetchall()]

    def remove(self, entries: Sequence[Entry]) -> int:
        """Remove these rows, except those stored again since they were read. Returns: the number
        removed."""
        with cache_errors(self.folder), self._store.transact():
            execute = self._store._sql
            return sum(execute(REMOVE, (e.row, e.stored)).rowcount for e in entries)

    def faults(self) -> list[str]:
        """The faults that SQLite finds in its file, without checking values. Cost: reads the
        file."""
        try:
            rows = self._store._sql("PRAGMA integrity_check(20)").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [str(fault) for (fault,) in rows if fault != "ok"]

    def shrink_file(self) -> None:
        """Return the space of removed rows to the file system, unless a reader still uses them."""
        with cache_errors(self.folder):
            # diskcache's file truncates itself (auto_vacuum) when the log is written back.
            self._store._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def file_bytes(self) -> int:
        """The size of the cache's files on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("cache.db*"))

    def remember_prefix(self, prefix: bytes) -> None:
        """Keep the shared part of an endpoint's keys, so that a miss can be explained."""
        self.remember_name(PREFIX + digest(prefix), prefix)

    def prefixes(self) -> list[bytes]:
        """Every remembered prefix, the oldest first."""
        return [value for _, value in self.names(PREFIX)]

    def names(self, start: bytes) -> list[tuple[bytes, bytes]]:
        """The remembered values whose name starts so, with their names, the oldest first. `start`
        ends with a blank."""
        with cache_errors(self.folder):
            rows = self._store._sql(NAMES_FROM, (start, start[:-1] + b"!")).fetchall()
        return [(bytes(key), value) for key, value in rows if type(value) is bytes]

    def remember_name(self, name: bytes, value: bytes) -> None:
        """Keep a value that is no answer, durably; one that is kept already costs no write."""
        with cache_errors(self.folder):
            if self._store.get(name) != value:
                self._store.set(name, value)

    def remember(self, name: str, value: bytes) -> None:
        """Keep a server's report about itself under this name."""
        with cache_errors(self.folder):
            self._store.set(SERVER + name.encode(), value)

    def recall(self, name: str) -> bytes | None:
        """The value kept under this name; None where there is none."""
        with cache_errors(self.folder):
            value: bytes | None = self._store.get(SERVER + name.encode())
        return value

    def close(self) -> None:
        self._store.close()
        self._release_lock()

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _differ(present: Answer | Split | None, answer: Answer | Split | None) -> bool:
    """True for another value than the present one; who gave it and what it cost does not count."""
    if isinstance(present, Answer) and isinstance(answer, Answer):
        return present.value != answer.value
    return present is not None and type(present) is not type(answer)


def digest(prefix: bytes) -> bytes:
    """The name of a key prefix, 32 hex digits."""
    return hashlib.sha256(prefix).hexdigest()[:32].encode()
