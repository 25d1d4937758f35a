"""SQL against diskcache's schema, for many rows at once.

diskcache's own `set` and `get` take about six sqlite3 steps for each entry. sqlite3 releases the
GIL at every step and must reacquire it from a busy loop, which takes up to 5 ms. So here one step
handles many rows; the file's content is the same as diskcache would have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TypeVar

STORED_ROWS = 64
LOOK_UP_KEYS = 32
"""Largest number of rows, or keys, of one statement."""

HOLDS = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
READ_SIZES = """SELECT rowid, length(value) FROM Cache WHERE rowid > ? AND rowid <= ?
    ORDER BY rowid LIMIT ?"""
READ = """SELECT rowid, key, raw, store_time, mode, filename, value FROM Cache
    WHERE rowid > ? AND rowid <= ? ORDER BY rowid"""
NAMES_FROM = """SELECT key, value FROM Cache WHERE key >= ? AND key < ? AND raw = 1
    ORDER BY rowid"""
REMOVE = "DELETE FROM Cache WHERE rowid = ? AND (typeof(store_time) <> 'real' OR store_time = ?)"
"""A row that was stored again since it was read has another time, and is kept."""

_T = TypeVar("_T")


def batches(rows: Sequence[_T], max_rows: int) -> Iterator[Sequence[_T]]:
    """The rows in batches of `max_rows`, then of powers of two: few distinct statements to
    prepare."""
    at = 0
    while at < len(rows):
        while max_rows > len(rows) - at:
            max_rows //= 2
        yield rows[at : at + max_rows]
        at += max_rows


@cache
def insert(rows: int) -> str:
    """The statement that stores this number of rows, except those whose key is in the file; its
    `rowcount` is the number stored.

    Parameters: key, time, length and value of each row.
    """
    values = ",".join(
        f"(?{at},1,?{at + 1},NULL,?{at + 1},0,NULL,?{at + 2},1,NULL,?{at + 3})"
        for at in range(1, 4 * rows, 4)
    )
    return (
        "INSERT INTO Cache(key, raw, store_time, expire_time, access_time, access_count, tag,"
        f" size, mode, filename, value) VALUES {values} ON CONFLICT(key, raw) DO NOTHING"
    )


@cache
def upsert(rows: int) -> str:
    """The statement that does what `diskcache.Cache.set` does, for this number of rows: it replaces
    those whose key is in the file. Parameters: as for `insert`."""
    return insert(rows).removesuffix("NOTHING") + (
        "UPDATE SET"
        " store_time = excluded.store_time, expire_time = NULL, access_time = excluded.access_time,"
        " access_count = 0, tag = NULL, size = excluded.size, mode = excluded.mode,"
        " filename = NULL, value = excluded.value"
    )


@cache
def look_up(keys: int) -> str:
    """The statement that does what `diskcache.Cache.get` does, for this number of keys; its one row
    holds the values or NULL.

    Parameters: the keys, then the time.
    """
    values = ",".join(
        f"(SELECT value FROM Cache WHERE key = ?{at} AND raw = 1 AND mode = 1"
        f" AND filename IS NULL AND (expire_time IS NULL OR expire_time > ?{keys + 1}))"
        for at in range(1, keys + 1)
    )
    return f"SELECT {values}"
