"""What is said where the cache cannot be used: the cause, the path, and a hint that helps."""

import errno
import os
import sqlite3
from contextlib import closing

import diskcache
import pytest

from pipeline.cache import faults
from pipeline.cache.faults import cache_error
from pipeline.cache.read_only import open_to_read
from pipeline.cache.store import AnswerCache
from pipeline.errors import StateError, StorageError
from pipeline.records import Answer

KEY = b"k" * 32


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "answers"
    path.mkdir()
    return path


def database(folder, *statements):
    with closing(sqlite3.connect(folder / "cache.db")) as file:
        for statement in statements:
            file.execute(statement)
        file.commit()
    return (folder / "cache.db").read_bytes()


@pytest.mark.parametrize("opened", [AnswerCache, open_to_read])
def test_the_database_of_another_program_is_named_and_left_as_it_is(folder, opened):
    before = database(folder, "CREATE TABLE moz_places (url)", "CREATE TABLE keywords (word)")
    with pytest.raises(StorageError) as caught:
        opened(folder)
    assert str(caught.value) == (
        f"{folder}/cache.db: the SQLite database of another program (tables `keywords`, "
        "`moz_places`), not an answer cache"
    )
    assert caught.value.hint.startswith("set TEXTMILL_HOME to another folder, or move the file away")
    assert (folder / "cache.db").read_bytes() == before
    assert caught.value.exit_code == 13


def test_a_table_of_the_same_name_with_other_columns_is_another_program_s(folder):
    database(folder, "CREATE TABLE Cache (key, value)")
    with pytest.raises(StorageError, match="of another program \\(tables `Cache`\\)"):
        AnswerCache(folder)


def test_a_diskcache_of_another_program_is_named(folder):
    with diskcache.Cache(str(folder)) as plain:
        plain.set("theirs", 1)
    with pytest.raises(StorageError, match="a diskcache of another program, not an answer cache"):
        AnswerCache(folder)
    assert diskcache.Cache(str(folder)).get("theirs") == 1


def test_a_cache_of_another_version_is_named(folder):
    AnswerCache(folder).close()
    database(folder, "UPDATE Cache SET value = x'31' WHERE key = CAST('textmill' AS BLOB)")
    with pytest.raises(StorageError, match=r"of another version of textmill \(format 1, this versi"):
        AnswerCache(folder)


def test_a_cache_that_was_being_made_is_finished(folder):
    with diskcache.Cache(str(folder)):
        pass
    with closing(AnswerCache(folder)) as cache:
        cache.put_many([(KEY, Answer("x"))])
    (folder / "cache.db").rename(folder / "aside")
    (folder / "cache.db").write_bytes(b"")
    AnswerCache(folder).close()


def test_a_cache_that_another_process_begins_to_make_is_one(folder):
    """Between its first two tables: two first runs at once, or a kill between them."""
    database(folder, "CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
    with closing(AnswerCache(folder)) as cache:
        cache.put_many([(KEY, Answer("x"))])
        assert cache.contains(KEY)


def test_settings_of_another_program_are_no_cache(folder):
    before = database(folder, "CREATE TABLE Settings (name, value)")
    with pytest.raises(StorageError, match="of another program \\(tables `Settings`\\)"):
        AnswerCache(folder)
    assert (folder / "cache.db").read_bytes() == before


@pytest.mark.parametrize("content", [b"no database at all", b"\x00" * 8192, b"{}\n" * 4000])
def test_a_file_that_is_no_database_is_not_called_full(folder, content):
    (folder / "cache.db").write_bytes(content)
    with pytest.raises(StateError, match="not an SQLite file, or its head is damaged") as caught:
        AnswerCache(folder)
    assert caught.value.hint.startswith("move it away")
    assert (folder / "cache.db").read_bytes() == content


def test_a_truncated_file_is_damaged_and_the_hint_repairs_it(folder):
    with closing(AnswerCache(folder)) as cache:
        cache.put_many([(n.to_bytes(32, "big"), Answer("x" * 500)) for n in range(400)])
        cache.shrink_file()
    whole = (folder / "cache.db").read_bytes()
    (folder / "cache.db").write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(StateError, match=r"cache\.db: the cache file is damaged: .*malfor") as caught,
        closing(AnswerCache(folder)) as cache,
    ):
        cache.get_many([n.to_bytes(32, "big") for n in range(400)])
    assert caught.value.hint == "textmill cache verify --repair keeps what can be read"


def test_what_stands_in_the_way_is_named(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError) as caught:
            AnswerCache(path)
        assert f"{tmp_path}/file is a file, not a folder" in str(caught.value)
        assert caught.value.hint == "move it away, or set TEXTMILL_HOME to another folder"
    (folder / "cache.db").mkdir()
    with pytest.raises(StorageError, match=r"cache\.db is a folder, not a file"):
        AnswerCache(folder)


def test_a_path_without_permission_is_named(folder, monkeypatch):
    AnswerCache(folder).close()
    monkeypatch.setattr(faults.os, "access", lambda path, mode: path != folder)
    error = cache_error(folder, sqlite_error("SQLITE_CANTOPEN", "unable to open database file"))
    assert str(error) == (
        f"{folder}: the answer cache cannot be used: no permission to write {folder}"
    )
    assert error.hint == "restore the permission, or set TEXTMILL_HOME to another folder"


def sqlite_error(name, message):
    error = sqlite3.OperationalError(message)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(("error", "cause", "hint"), [
    (sqlite_error("SQLITE_FULL", "database or disk is full"), "the disk is full", "free space"),
    (OSError(errno.ENOSPC, "No space left"), "the disk is full", "free space"),
    (OSError(errno.EDQUOT, "Quota"), "the disk quota is used up", "free space"),
    (OSError(errno.EROFS, "Read-only"), "its file system is read-only", "set TEXTMILL_HOME"),
    (OSError(errno.ENOLCK, "No locks"), "the file system has no working locks", "set TEXTMILL_HOME"),
    (sqlite_error("SQLITE_PROTOCOL", "locking protocol"), "the file system has no working locks", "set"),
    (sqlite_error("SQLITE_IOERR_SHMMAP", "disk I/O error"), "the disk or network file system", "check"),
    (sqlite_error("SQLITE_BUSY_RECOVERY", "database is locked"), "another process has locked", "end the"),
    (diskcache.Timeout(), "another process has locked it for 60 s", "end the process"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error", "check the folder"),
])  # fmt: skip
def test_each_error_has_its_cause_and_its_hint(folder, error, cause, hint):
    found = cache_error(folder, error)
    assert type(found) is StorageError
    assert str(found).startswith(f"{folder}: the answer cache cannot be used: {cause}")
    assert found.hint.startswith(hint)
    assert ("free space" in found.hint) is (hint == "free space")


def test_a_read_only_file_system_is_named(folder, monkeypatch):
    AnswerCache(folder).close()
    read_only = os.statvfs(folder)

    class Flags:
        f_flag = read_only.f_flag | os.ST_RDONLY

    monkeypatch.setattr(faults.os, "statvfs", lambda path: Flags)
    error = cache_error(folder, sqlite_error("SQLITE_READONLY", "attempt to write a readonly database"))
    assert str(error).endswith("its file system is read-only")


def test_a_lock_that_another_process_holds_is_not_called_a_full_disk(folder, monkeypatch):
    monkeypatch.setattr("pipeline.cache.store.BUSY_SECONDS", 0.1)
    with closing(AnswerCache(folder)) as cache, closing(sqlite3.connect(folder / "cache.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="another process has locked it"):
            cache.put_many([(KEY, Answer("x"))])
