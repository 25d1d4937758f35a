"""SQL against diskcache's schema, for many rows at once.

diskcache's own `set` and `get` are some six steps of sqlite3 for each entry. sqlite3 gives up the
GIL at every step and has to win it back from a busy loop, which takes up to 5 ms. So here a step is
for many rows; what is in the file afterwards is what diskcache would have put there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TypeVar

STORED_ROWS = 64
LOOK_UP_KEYS = 32
"""Rows of one statement."""

HOLDS = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
READ_SIZES = """SELECT rowid, length(value) FROM Cache WHERE rowid > ? AND rowid <= ?
    ORDER BY rowid LIMIT ?"""
READ = """SELECT rowid, key, raw, store_time, mode, filename, value FROM Cache
    WHERE rowid > ? AND rowid <= ? ORDER BY rowid"""
REMOVE = "DELETE FROM Cache WHERE rowid = ? AND (typeof(store_time) <> 'real' OR store_time = ?)"
"""A row that was stored again since it was read has another time, and stays."""

_T = TypeVar("_T")


def batches(rows: Sequence[_T], most: int) -> Iterator[Sequence[_T]]:
    """The rows in runs of `most`, then of powers of two: few different statements to prepare."""
    at = 0
    while at < len(rows):
        while most > len(rows) - at:
            most //= 2
        yield rows[at : at + most]
        at += most


@cache
def upsert(rows: int) -> str:
    """What `diskcache.Cache.set` does to a row, for so many rows at once.

    Parameters: key, time, length and value of each row.
    """
    values = ",".join(
        f"(?{at},1,?{at + 1},NULL,?{at + 1},0,NULL,?{at + 2},1,NULL,?{at + 3})"
        for at in range(1, 4 * rows, 4)
    )
    return (
        "INSERT INTO Cache(key, raw, store_time, expire_time, access_time, access_count, tag,"
        f" size, mode, filename, value) VALUES {values} ON CONFLICT(key, raw) DO UPDATE SET"
        " store_time = excluded.store_time, expire_time = NULL, access_time = excluded.access_time,"
        " access_count = 0, tag = NULL, size = excluded.size, mode = excluded.mode,"
        " filename = NULL, value = excluded.value"
    )


@cache
def look_up(keys: int) -> str:
    """What `diskcache.Cache.get` does for a key, for so many keys in one row: value or NULL.

    Parameters: the keys, then the time.
    """
    values = ",".join(
        f"(SELECT value FROM Cache WHERE key = ?{at} AND raw = 1 AND mode = 1"
        f" AND filename IS NULL AND (expire_time IS NULL OR expire_time > ?{keys + 1}))"
        for at in range(1, keys + 1)
    )
    return f"SELECT {values}"
