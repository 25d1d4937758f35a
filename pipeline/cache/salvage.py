"""Recovers the readable answers of a cache file that SQLite rejects as damaged.

A damaged page costs the answers on it, but not the others, which were paid for.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from pipeline.cache.entry import Entry, entry_of
from pipeline.cache.origins import is_readable
from pipeline.cache.sql import READ
from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import rename, storage_errors
from pipeline.disk.locks import lock_cache_folder
from pipeline.errors import StateError
from pipeline.text import shown

BATCH_ROWS = 256
GIVE_UP_AFTER = 1 << 20
"""Consecutive unreadable rows after which to stop, where the file does not hold the last row
number."""


def salvage(folder: Path) -> tuple[int, Path]:
    """Replace the damaged file by a new one with all readable answers; returns their number and the
    new place of the damaged file.

    Raises: LockedError while other processes use the cache; StateError where nothing is readable.
    Cost: disk space for the readable answers.
    """
    lock = lock_cache_folder(folder, 0.0, alone=True)
    try:
        return _salvage(folder)
    finally:
        os.close(lock)


def _salvage(folder: Path) -> tuple[int, Path]:
    fresh = folder / "salvage"
    aside = folder.with_name(
        f"{folder.name}-damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    )
    with storage_errors(folder):
        shutil.rmtree(fresh, ignore_errors=True)
    answers = 0
    with closing(AnswerCache(fresh)) as cache:
        # Closing the last connection writes the log back, so that no row is only in the log.
        with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as damaged:
            try:
                damaged.execute("SELECT count(*) FROM sqlite_master").fetchall()
            except sqlite3.DatabaseError as error:
                shutil.rmtree(fresh, ignore_errors=True)
                raise StateError(
                    f"{shown(str(folder / 'cache.db'))}: nothing can be read: {error}",
                    hint="move the folder away; a file of `textmill cache export` can be imported",
                ) from None
            for entries in _readable(damaged):
                answers += cache.add_many([e for e in entries if e.is_answer and e.answer])[0]
                for entry in entries:
                    _remember(cache, entry)
        cache.shrink_file()
    with storage_errors(folder):
        aside.mkdir(mode=0o700)
        (aside / "cache.db").hardlink_to(folder / "cache.db")
        for name in ("cache.db-wal", "cache.db-shm"):
            with suppress(FileNotFoundError):
                (folder / name).rename(aside / name)
        rename(fresh / "cache.db", folder / "cache.db")
        shutil.rmtree(fresh, ignore_errors=True)
    return answers, aside


def _remember(cache: AnswerCache, entry: Entry) -> None:
    if entry.encoded is not None and entry.is_name and is_readable(entry):
        cache.remember_name(entry.key, entry.encoded)


def _readable(damaged: sqlite3.Connection) -> Iterator[list[Entry]]:
    """The readable rows, in batches; near unreadable ones row by row."""
    last = _last_row(damaged)
    row = skipped = 0
    while (row < last) if last is not None else (skipped < GIVE_UP_AFTER):
        try:
            rows = damaged.execute(READ + f" LIMIT {BATCH_ROWS}", (row, 1 << 62)).fetchall()
            if not rows:
                return
            row, skipped = rows[-1][0], 0
            yield [entry_of(*columns) for columns in rows]
        except sqlite3.DatabaseError:
            for number in range(row + 1, row + 1 + BATCH_ROWS):
                with suppress(sqlite3.DatabaseError):
                    if rows := damaged.execute(READ, (number - 1, number)).fetchall():
                        skipped = 0
                        yield [entry_of(*rows[0])]
            row += BATCH_ROWS
            skipped += BATCH_ROWS


def _last_row(damaged: sqlite3.Connection) -> int | None:
    """The number of the last row, from the table or else its index; None where both are
    unreadable."""
    for source in ("Cache NOT INDEXED", "Cache INDEXED BY Cache_key_raw"):
        with suppress(sqlite3.DatabaseError):
            ((last,),) = damaged.execute(f"SELECT max(rowid) FROM {source}").fetchall()
            return int(last or 0)
    return None
