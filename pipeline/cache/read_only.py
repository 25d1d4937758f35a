"""The answer cache for commands that only read, also where its folder cannot be written.

`AnswerCache` writes when it opens: a lock, a mark, the schema. `plan` counts cached answers on a
read-only disk too, and in the home of another user.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cache.faults import cache_errors, check_schema, connect_to_read
from pipeline.cache.store import AnswerCache


def open_to_read(folder: Path) -> AnswerCache | None:
    """The cache in this folder, None if there is none. Raises: StorageError, StateError."""
    path = os.fspath(folder / "cache.db")
    if not os.path.exists(path):  # noqa: PTH110 - False for a folder that cannot be entered
        return None
    if all(os.access(each, os.W_OK) for each in (folder, path)):
        return AnswerCache(folder)
    return _ReadOnlyCache(folder)


class _ReadOnlyCache(AnswerCache):
    """Answers by key, without a lock: no file of the folder changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = None
        check_schema(folder)
        with cache_errors(folder):
            self._store = _Reader(folder / "cache.db")


class _Reader:
    """What `AnswerCache` needs of a diskcache store to read from it."""

    def __init__(self, path: Path) -> None:
        self._connection = connect_to_read(path)

    def _sql(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def get(self, key: bytes) -> bytes | None:
        rows = self._sql("SELECT value FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchall()
        return rows[0][0] if rows and type(rows[0][0]) is bytes else None

    def close(self) -> None:
        self._connection.close()
