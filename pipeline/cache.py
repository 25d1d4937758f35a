"""Every answer ever paid for, by key: the journal of all runs.

An answer counts only after it is durable here. diskcache gives the SQLite file, the schema and the
tools that people know; what it does by default (pickle, eviction at 1 GiB, lazy syncs) would lose
answers or run code from the file, so each of these is switched off here. See
`docs/decisions/0001-diskcache.md`.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import diskcache
import msgspec

from pipeline.errors import StorageError
from pipeline.place import sync_folder
from pipeline.records import Answer, Split

BUSY_SECONDS = 60
"""So long a look-up or a commit waits for another process that writes; then storage has failed."""

_RAW = diskcache.core.MODE_RAW
_SPLIT = (None, 0, 0, False, "")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, int, int, bool, str]).decode


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
        return len(value), _RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        if mode != _RAW or filename is not None or type(value) is not bytes:
            raise OSError("not a raw value")  # diskcache takes an OSError for a miss
        return value


class AnswerCache:
    """Answers by key. Calls block on SQLite: use it from worker threads, one writer at a time.

    Raises: StorageError when the folder or the file cannot be used, or the disk is full.
    Cost: a look-up that misses 4 us, a hit 7-10 us, a stored answer 24-40 us in groups of 64.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            is_new = not folder.is_dir()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
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
            self._store.set(b"textmill", b"1")  # a read-only folder must show before money is spent
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise _failed(folder, error) from error

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Answer | Split]:
        """The answers there are; a damaged entry counts as absent and is paid again."""
        found: dict[bytes, Answer | Split] = {}
        get = self._store.get
        try:
            for key in keys:
                sealed = get(key)
                if sealed is not None:
                    answer = _unseal(key, sealed)
                    if answer is not None:
                        found[key] = answer
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise _failed(self.folder, error) from error
        return found

    def put_many(self, answers: Sequence[tuple[bytes, Answer | Split]]) -> None:
        """Return when all of them are durable: one transaction, one sync."""
        store = self._store
        try:
            with store.transact():
                for key, answer in answers:
                    store.set(key, _seal(key, answer))
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise _failed(self.folder, error) from error

    def remember(self, name: str, value: bytes) -> None:
        """Keep what a server said of itself under a name of its own."""
        try:
            self._store.set(b"server " + name.encode(), value)
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise _failed(self.folder, error) from error

    def remembered(self, name: str) -> bytes | None:
        """What was kept under this name."""
        try:
            value: bytes | None = self._store.get(b"server " + name.encode())
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            raise _failed(self.folder, error) from error
        return value

    def close(self) -> None:
        self._store.close()


def _seal(key: bytes, answer: Answer | Split) -> bytes:
    """SQLite does not notice a flipped bit in a value, and a wrong vector looks like any other."""
    body = _encode(_SPLIT if isinstance(answer, Split) else answer)
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little") + body


def _unseal(key: bytes, sealed: bytes) -> Answer | Split | None:
    body = sealed[4:]
    if zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little") != sealed[:4]:
        return None
    try:
        value, input_tokens, output_tokens, truncated, model = _decode(body)
    except msgspec.MsgspecError:
        return None
    if value is None:
        return Split()
    if not isinstance(value, bytes | str):
        return None
    return Answer(value, input_tokens, output_tokens, truncated, model)


def _failed(folder: Path, error: Exception) -> StorageError:
    reason = "busy for too long" if isinstance(error, diskcache.Timeout) else str(error)
    return StorageError(
        f"{folder}: the answer cache cannot be used: {reason}",
        hint="free space, or set TEXTMILL_HOME to a folder on another disk; no kept answer is lost",
    )
