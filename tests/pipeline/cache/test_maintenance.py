"""Statistics, verification, pruning and salvage of the cache; only the named answers are removed."""

import hashlib
import sqlite3
import struct
import threading
import time

import pytest

from pipeline.cache.maintenance import cache_stats, find_damage, find_older
from pipeline.cache.salvage import salvage
from pipeline.cache.store import AnswerCache
from pipeline.errors import LockedError, StateError
from pipeline.records import Answer, Split

PREFIX = b'[1,"feature-extraction",["openai","","m","main"],{"dimensions":2}]'
DAY = 86_400.0


def key(number):
    return hashlib.sha256(b"%d" % number).digest()


def vector(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "answers"


@pytest.fixture
def cache(folder):
    answers = AnswerCache(folder)
    yield answers
    answers.close()


def change(folder, statement, *values):
    file = sqlite3.connect(folder / "cache.db", isolation_level=None)
    file.execute(statement, values)
    file.close()


def test_statistics_of_an_empty_cache(cache):
    stats = cache_stats(cache)
    assert (stats.answers, stats.splits, stats.bytes, stats.damaged) == (0, 0, 0, 0)
    assert (stats.oldest, stats.newest, stats.kinds, stats.request_settings) == (None, None, [], [])
    assert stats.free_bytes > 0


def test_statistics_count_by_model_and_dimension(cache, folder):
    cache.put_many([(key(n), Answer(vector(1, 2), model="m")) for n in range(600)])
    cache.put_many([(key(1_000), Answer("你好", model="chat")), (key(1_001), Split())])
    cache.remember_prefix(PREFIX)
    cache.remember("http://127.0.0.1:8080", b"{}")  # a name, not an answer, of 28 bytes
    cache.remember("http://127.0.0.1:8080/xyz", b"{}")  # 32 bytes, as a key has
    change(folder, "UPDATE Cache SET store_time = 1000.0 WHERE key = ?", key(7))
    stats = cache_stats(cache)
    assert (stats.answers, stats.splits, stats.damaged) == (601, 1, 0)
    assert [(k.model, k.dimension, k.answers) for k in stats.kinds] == [
        ("m", 2, 600), ("chat", None, 1)
    ]
    assert stats.oldest == 1_000.0
    assert abs(stats.newest - time.time()) < 3_600
    assert stats.request_settings == [{
        "keys": 1, "task": "feature-extraction", "endpoint.kind": "openai",
        "endpoint.provider": "", "endpoint.model": "m", "endpoint.revision": "main",
        "parameters.dimensions": 2, "origins": [],
    }]


def test_verify_reports_every_kind_of_damage_and_removes_only_that(cache, folder):
    cache.put_many([(key(n), Answer(f"{n}")) for n in range(10)])
    cache.remember("http://127.0.0.1:8080/xyz", b"{}")
    change(folder, "UPDATE Cache SET value = x'0011223344' WHERE key = ?", key(1))
    change(folder, "UPDATE Cache SET mode = 4 WHERE key = ?", key(2))
    change(folder, "UPDATE Cache SET value = 'text' WHERE key = ?", key(3))
    change(folder, "UPDATE Cache SET value = NULL WHERE key = ?", key(4))
    change(folder, "UPDATE Cache SET filename = '../../x', store_time = 'then' WHERE key = ?", key(5))
    change(folder, "UPDATE Cache SET key = ?, store_time = NULL WHERE key = ?", b"foreign", key(6))
    reported = []
    assert find_damage(cache, repair=False, report=reported.append) == (4, 6, 0)
    assert [(entry.key[:12], entry.why) for entry in reported] == [
        (key(1).hex()[:12], "its checksum does not match"),
        *((key(n).hex()[:12], "not raw bytes") for n in (2, 3, 4, 5)),
        (b"foreign".hex()[:12], "not a key of textmill"),
    ]
    assert find_damage(cache, repair=True, report=reported.append) == (4, 6, 6)
    assert find_damage(cache, repair=False, report=reported.append) == (4, 0, 0)
    assert cache.get_many(map(key, range(10))) == {key(n): Answer(f"{n}") for n in (0, 7, 8, 9)}
    assert cache.recall("http://127.0.0.1:8080/xyz") == b"{}"


def test_an_entry_that_was_stored_again_meanwhile_is_not_removed(cache, folder):
    cache.put_many([(key(1), Answer("old"))])
    change(folder, "UPDATE Cache SET value = x'00', store_time = 5.0 WHERE key = ?", key(1))
    (entries,) = cache.entries()
    cache.put_many([(key(1), Answer("new"))])
    assert cache.remove([entry for entry in entries if entry.key == key(1)]) == 0
    assert cache.get_many([key(1)]) == {key(1): Answer("new")}


def test_only_answers_that_are_older_are_prunable(cache, folder):
    cache.put_many([(key(n), Answer(f"{n}")) for n in range(4)])
    cache.remember_prefix(PREFIX)
    change(folder, "UPDATE Cache SET store_time = ? WHERE raw = 1", 100 * DAY)
    change(folder, "UPDATE Cache SET store_time = ? WHERE key IN (?, ?)", 99 * DAY, key(1), key(3))
    old = [entry for run in find_older(cache, 100 * DAY) for entry in run]
    assert [entry.key for entry in old] == [key(1), key(3)]
    assert cache.remove(old) == 2
    assert sorted(cache.get_many(map(key, range(4)))) == sorted([key(0), key(2)])
    assert cache.prefixes() == [PREFIX]


def test_the_file_shrinks_when_answers_are_removed(cache):
    cache.put_many([(key(n), Answer(bytes(range(250)) * 16)) for n in range(500)])
    cache.shrink_file()
    before = cache.file_bytes
    assert before > 2_000_000
    for run in find_older(cache, time.time() + 1):
        cache.remove(run)
    cache.shrink_file()
    assert cache.file_bytes < before // 10


def test_a_long_read_does_not_hold_back_a_writer_and_ends_where_it_began(cache):
    cache.put_many([(key(n), Answer(f"{n}")) for n in range(600)])
    runs = cache.entries()
    first = len(next(runs))

    def write():
        cache.put_many([(key(n), Answer(f"{n}")) for n in range(600, 1_200)])

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(timeout=30)
    assert not writer.is_alive()
    assert first + sum(map(len, runs)) == 601  # and the mark of the first start


def test_runs_of_large_answers_are_short(cache):
    cache.put_many([(key(n), Answer("x" * 3_000_000)) for n in range(7)])
    assert [len(run) for run in cache.entries()] == [3, 2, 2, 1]  # with the mark, 8 MB at most


def test_removing_needs_the_cache_alone_and_running_does_not(folder):
    first, second = AnswerCache(folder), AnswerCache(folder)
    with pytest.raises(LockedError, match="the answers are in use by a run or another command"):
        AnswerCache(folder, alone=True)
    first.close()
    second.close()
    alone = AnswerCache(folder, alone=True)
    entered = threading.Event()

    def enter():
        AnswerCache(folder).close()
        entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.1)
    alone.close()
    assert entered.wait(30)
    waiting.join()


def damage(folder, page):
    with (folder / "cache.db").open("r+b") as file:
        file.seek(page * 4096)
        file.write(bytes(range(256)) * 16)


def filled(folder, count):
    cache = AnswerCache(folder)
    cache.put_many([(key(n), Answer(b"\x00\x00\x80?" * 250)) for n in range(count)])
    cache.remember_prefix(PREFIX)
    cache.remember("http://127.0.0.1:8080", b"{}")
    cache.shrink_file()
    pages = (folder / "cache.db").stat().st_size // 4096
    cache.close()
    return pages


@pytest.mark.parametrize("share", [0.15, 0.5, 0.9])
def test_of_a_file_with_a_damaged_page_all_other_answers_are_salvaged(folder, share):
    pages = filled(folder, 1_000)
    damage(folder, int(pages * share))
    cache = AnswerCache(folder)
    assert cache.faults() != []
    with pytest.raises(StateError, match="the cache file is damaged"):
        list(cache.entries())
        cache.get_many(map(key, range(1_000)))
    cache.close()
    answers, aside = salvage(folder)
    assert answers >= 990
    assert (aside / "cache.db").stat().st_size >= pages * 4096
    cache = AnswerCache(folder)
    assert cache.faults() == []
    assert len(cache.get_many(map(key, range(1_000)))) == answers
    assert cache.prefixes() == [PREFIX]
    assert cache.recall("http://127.0.0.1:8080") == b"{}"
    cache.close()
    assert not (folder / "salvage").exists()


def test_a_file_that_is_no_database_is_left_where_it_is(folder):
    filled(folder, 10)
    damage(folder, 0)
    before = (folder / "cache.db").read_bytes()
    with pytest.raises(StateError, match="not an SQLite file, or its head is damaged"):
        AnswerCache(folder)
    with pytest.raises(StateError, match="nothing can be read"):
        salvage(folder)
    assert (folder / "cache.db").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["answers"]


def test_a_file_in_use_is_not_salvaged(folder):
    cache = AnswerCache(folder)
    with pytest.raises(LockedError):
        salvage(folder)
    cache.close()
