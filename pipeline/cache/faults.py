"""What is wrong where the cache cannot be used: its true cause, and a hint that helps.

SQLite's own words name the symptom (`unable to open database file`), so its codes and the file are
looked at. The schema is checked before the file is opened to write, because opening it would add
tables to the database of another program.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import diskcache

from pipeline.cache.entry import MARK
from pipeline.disk.durable import descriptors_are_used_up
from pipeline.errors import DescriptorError, StateError, StorageError, TextmillError
from pipeline.text import printable, reason, shown

FORMAT = b"2"
"""The form of entries and names, kept under `MARK`; incremented when it changes."""

BUSY_SECONDS = 60
"""How long a look-up or commit waits for a writing process before it fails with StorageError."""

_COLUMNS = frozenset(
    [
        "rowid",
        "key",
        "raw",
        "store_time",
        "expire_time",
        "access_time",
        "access_count",
        "tag",
        "size",
        "mode",
        "filename",
        "value",
    ]
)
_ELSEWHERE = "set TEXTMILL_HOME to another folder"
_KEPT = "free space and run again; every answer so far is kept"
_LOCAL = "set TEXTMILL_HOME to a folder on a local disk: network file systems lack working locks"

_BY_CODE = {
    "SQLITE_FULL": ("the disk is full", _KEPT),
    "SQLITE_BUSY": (
        f"another process has locked it for {BUSY_SECONDS} s",
        "end the process that holds it, such as a backup or a database browser, and run again",
    ),
    "SQLITE_PROTOCOL": ("the file system has no working locks", _LOCAL),
    "SQLITE_NOLFS": ("the file system takes no file of this size", _ELSEWHERE),
    "SQLITE_IOERR": (
        "the disk or network file system fails to read, write or lock it",
        f"check the disk, or {_ELSEWHERE} on a local disk",
    ),
}
"""The cause and the hint by SQLite's code, without its extension."""

_BY_ERRNO = {
    errno.ENOSPC: ("the disk is full", _KEPT),
    errno.EDQUOT: ("the disk quota is used up", _KEPT),
    errno.EROFS: ("its file system is read-only", _ELSEWHERE),
    errno.ENOLCK: ("the file system has no working locks", _LOCAL),
    errno.EOPNOTSUPP: ("the file system has no working locks", _LOCAL),
    errno.ENOSYS: ("the file system has no working locks", _LOCAL),
}


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turns errors of SQLite and the system into StorageError or StateError."""
    try:
        yield
    except (OSError, sqlite3.Error, diskcache.Timeout) as error:
        raise cache_error(folder, error) from error


def cache_error(folder: Path, error: Exception) -> TextmillError:
    """The error that ends the run: StateError for a damaged file, StorageError for what is around
    it."""
    if descriptors_are_used_up():
        return DescriptorError(str(folder))
    path = folder / "cache.db"
    code = str(getattr(error, "sqlite_errorname", ""))
    if code.startswith("SQLITE_NOTADB"):
        return StateError(
            f"{shown(str(path))}: not an SQLite file, or its head is damaged",
            hint="move it away; a file of `textmill cache export` can be imported",
        )
    if code.startswith("SQLITE_CORRUPT") or type(error) is sqlite3.DatabaseError:
        return StateError(
            f"{shown(str(path))}: the cache file is damaged: {error}",
            hint="textmill cache verify --repair keeps what can be read",
        )
    if isinstance(error, diskcache.Timeout):
        code = "SQLITE_BUSY"
    cause, hint = _around(folder, error, code)
    return StorageError(
        f"{shown(str(folder))}: the answer cache cannot be used: {cause}", hint=hint
    )


def _around(folder: Path, error: Exception, code: str) -> tuple[str, str]:
    """The cause and the hint, for an error that is not in the file's own bytes."""
    known = next((found for start, found in _BY_CODE.items() if code.startswith(start)), None)
    if known is None and isinstance(error, OSError):
        known = _BY_ERRNO.get(error.errno or 0)
    return known or _refused(folder) or (reason(error), f"check the folder, or {_ELSEWHERE}")


def _refused(folder: Path) -> tuple[str, str] | None:
    """The first thing on the way to the file that does not let this user write."""
    for each in (*reversed(folder.parents), folder, folder / "cache.db"):
        name, is_last = shown(str(each)), each.name == "cache.db"
        if not os.path.lexists(each):
            return None
        if each.is_dir() is is_last:
            what = "a folder, not a file" if is_last else "a file, not a folder"
            return f"{name} is {what}", f"move it away, or {_ELSEWHERE}"
        if os.statvfs(each).f_flag & os.ST_RDONLY and each in (folder, folder / "cache.db"):
            return "its file system is read-only", _ELSEWHERE
        needed = os.W_OK if is_last else os.X_OK | (os.W_OK if each == folder else 0)
        if not os.access(each, needed):
            return f"no permission to write {name}", f"restore the permission, or {_ELSEWHERE}"
    return None


def check_schema(folder: Path) -> None:
    """Refuses the database of another program, or of another version of this one, untouched.

    Raises: StorageError; StateError for a file that is no database.
    """
    path = folder / "cache.db"
    try:
        if not path.is_file() or not path.stat().st_size:
            return
        with closing(connect_to_read(path, busy_seconds=1.0)) as connection:
            foreign = _foreign_schema(connection)
    except (OSError, sqlite3.OperationalError):
        return  # opening it to write finds the cause
    except sqlite3.DatabaseError as error:
        raise cache_error(folder, error) from error
    if foreign is not None:
        raise StorageError(
            f"{shown(str(path))}: {foreign}",
            hint=f"{_ELSEWHERE}, or move the file away: nothing in it was changed",
        )


def connect_to_read(path: Path, busy_seconds: float = 5.0) -> sqlite3.Connection:
    """A connection that changes no file and has read from this one; threads use it in turns.

    Raises: sqlite3.Error.
    """
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    try:
        return _connected(uri, busy_seconds)
    except sqlite3.OperationalError:
        # SQLite cannot create its files of a log beside a cache that nobody writes now.
        return _connected(f"{uri}&immutable=1", busy_seconds)


def _connected(uri: str, busy_seconds: float) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _foreign_schema(connection: sqlite3.Connection) -> str | None:
    """What the file is, if it is no cache of this version."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    tables = [name for (name,) in rows if not name.startswith("sqlite_")]
    if not tables:
        return None
    if tables == ["Settings"] and _columns_of(connection, "Settings") == {"key", "value"}:
        return None  # another process creates the cache now, or was killed while it did
    if not _columns_of(connection, "Cache") >= _COLUMNS:
        named = ", ".join(f"`{printable(name, 40)}`" for name in tables[:5])
        return f"the SQLite database of another program (tables {named}), not an answer cache"
    mark = connection.execute(
        "SELECT value FROM Cache WHERE key = ? AND raw = 1", (MARK,)
    ).fetchone()
    if mark is None:
        is_empty = connection.execute("SELECT 1 FROM Cache LIMIT 1").fetchone() is None
        return None if is_empty else "a diskcache of another program, not an answer cache"
    if mark[0] != FORMAT:
        found = mark[0].decode("ascii", "replace") if isinstance(mark[0], bytes) else str(mark[0])
        return (
            f"an answer cache of another version of textmill (format {printable(found, 20)}, this "
            f"version has format {FORMAT.decode()})"
        )
    return None


def _columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """The names of a table's columns; empty: there is no such table."""
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
