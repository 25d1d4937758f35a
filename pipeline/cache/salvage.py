"""A file of answers that SQLite cannot read any more, read as far as it goes.

A damaged page costs the answers that lie on it, not the others: they were paid for.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from pipeline.cache.entry import PREFIX, SERVER, Entry, entry_of
from pipeline.cache.keys import parts_of
from pipeline.cache.sql import READ
from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import rename, storage_errors
from pipeline.disk.locks import lock_cache_folder
from pipeline.errors import StateError
from pipeline.text import shown

AT_ONCE = 256
GIVE_UP_AFTER = 1 << 20
"""So many rows in a row that cannot be read, where the file does not say how many there are."""


def salvage(folder: Path) -> tuple[int, Path]:
    """Put what can be read into a new file in the place of the damaged one; how many answers, and
    where the damaged file lies now.

    Raises: LockedError while others use it; StateError where nothing can be read at all.
    Cost: as much space as the readable answers take.
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
        # The last one to close it writes the log back, so that no row is only there.
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
    if entry.encoded is None:
        return
    if entry.key.startswith(PREFIX) and parts_of(entry.encoded):
        cache.remember_prefix(entry.encoded)
    elif entry.key.startswith(SERVER):
        with suppress(UnicodeDecodeError):
            cache.remember(entry.key[len(SERVER) :].decode(), entry.encoded)


def _readable(damaged: sqlite3.Connection) -> Iterator[list[Entry]]:
    """The rows that can be read, in runs; around those that cannot, one by one."""
    last = _last_row(damaged)
    row = skipped = 0
    while (row < last) if last is not None else (skipped < GIVE_UP_AFTER):
        try:
            found = damaged.execute(READ + f" LIMIT {AT_ONCE}", (row, 1 << 62)).fetchall()
            if not found:
                return
            row, skipped = found[-1][0], 0
            yield [entry_of(*each) for each in found]
        except sqlite3.DatabaseError:
            for each in range(row + 1, row + 1 + AT_ONCE):
                with suppress(sqlite3.DatabaseError):
                    if one := damaged.execute(READ, (each - 1, each)).fetchall():
                        skipped = 0
                        yield [entry_of(*one[0])]
            row += AT_ONCE
            skipped += AT_ONCE


def _last_row(damaged: sqlite3.Connection) -> int | None:
    """The last row, from the table or else from its index; None: neither says it."""
    for source in ("Cache NOT INDEXED", "Cache INDEXED BY Cache_key_raw"):
        with suppress(sqlite3.DatabaseError):
            ((last,),) = damaged.execute(f"SELECT max(rowid) FROM {source}").fetchall()
            return int(last or 0)
    return None
