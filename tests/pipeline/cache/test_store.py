import hashlib
import itertools
import os
import pickle
import sqlite3
import stat
import threading

import diskcache
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache.store import AnswerCache, RawDisk
from pipeline.errors import StorageError
from pipeline.records import Answer, Split

KEY = b"k" * 32
EXAMPLES = itertools.count()
"""The examples of a law share one cache, whose making costs more than all of them: each has keys of
its own."""


@pytest.fixture
def cache(tmp_path):
    opened = AnswerCache(tmp_path / "answers")
    yield opened
    opened.close()


def test_what_was_put_is_got_by_a_second_process_of_its_own(cache, tmp_path):
    answer = Answer(b"\x00\x00\x80?", 3, 0, False, "m")
    text = Answer("你好 😀", 5, 2, True, "chat")
    cache.put_many([(KEY, answer), (b"t" * 32, text)])
    again = AnswerCache(tmp_path / "answers")
    assert again.get_many([KEY, b"t" * 32, b"x" * 32]) == {KEY: answer, b"t" * 32: text}
    again.close()


def keys(count):
    example = next(EXAMPLES)
    return [hashlib.sha256(f"{example}, {number}".encode()).digest() for number in range(count)]


@given(
    st.binary(max_size=64), st.text(max_size=64).filter(lambda t: t.isprintable()), st.booleans()
)
def test_every_answer_survives(cache, value, text, truncated):
    one, two = keys(2)
    answers = {one: Answer(value), two: Answer(text, 1, 2, truncated, "m")}
    cache.put_many(list(answers.items()))
    assert cache.get_many(answers) == answers


class Boom:
    def __reduce__(self):
        return (os.abort, ())


def test_a_pickle_in_the_file_is_never_loaded(cache, tmp_path):
    cache.put_many([(KEY, Answer("x"))])
    file = sqlite3.connect(tmp_path / "answers" / "cache.db")
    file.execute("UPDATE Cache SET mode = 4, value = ? WHERE key = ?", (pickle.dumps(Boom()), KEY))
    file.commit()
    file.close()
    assert cache.get_many([KEY]) == {}


def test_the_disk_refuses_everything_but_bytes(tmp_path):
    disk = RawDisk(str(tmp_path))
    for bad in ("text", 1, 1.0, None, Boom()):
        with pytest.raises(TypeError):
            disk.put(bad)
        with pytest.raises(TypeError):
            disk.store(bad, False)
    with pytest.raises(OSError, match="not a raw key"):
        disk.get(b"k", False)
    for mode in (2, 3, 4):
        with pytest.raises(OSError, match="not a raw value"):
            disk.fetch(mode, None, b"v", False)
    with pytest.raises(OSError, match="not a raw value"):
        disk.fetch(diskcache.core.MODE_RAW, "../../etc/passwd", b"v", False)


def test_a_flipped_bit_counts_as_absent(cache, tmp_path):
    cache.put_many([(KEY, Answer(b"abcd")), (b"o" * 32, Answer(b"efgh"))])
    file = sqlite3.connect(tmp_path / "answers" / "cache.db")
    (value,) = file.execute("SELECT value FROM Cache WHERE key = ?", (KEY,)).fetchone()
    broken = bytearray(value)
    broken[-6] ^= 1
    file.execute("UPDATE Cache SET value = ? WHERE key = ?", (bytes(broken), KEY))
    file.commit()
    file.close()
    assert cache.get_many([KEY, b"o" * 32]) == {b"o" * 32: Answer(b"efgh")}


def test_an_answer_under_another_key_is_not_that_keys_answer(cache, tmp_path):
    cache.put_many([(KEY, Answer(b"abcd"))])
    file = sqlite3.connect(tmp_path / "answers" / "cache.db")
    file.execute("UPDATE Cache SET key = ? WHERE key = ?", (b"z" * 32, KEY))
    file.commit()
    file.close()
    assert cache.get_many([b"z" * 32]) == {}


def test_answers_are_private_and_synced(cache, tmp_path):
    folder = tmp_path / "answers"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    assert cache._store.eviction_policy == "none"
    assert cache._store.sqlite_synchronous == 2


def test_nothing_is_evicted_above_diskcaches_default_limit(cache):
    cache._store.reset("size_limit", 1 << 62)
    assert cache._store.cull_limit == 0


def test_a_group_is_kept_whole_or_not_at_all(cache):
    class Unstorable:
        pass

    with pytest.raises(TypeError):
        cache.put_many([(KEY, Answer("kept?")), (b"b" * 32, Unstorable())])
    assert cache.get_many([KEY]) == {}


def test_an_unusable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="the answer cache cannot be used"):
        AnswerCache(tmp_path / "file")
    with pytest.raises(StorageError, match="the answer cache cannot be used"):
        AnswerCache(tmp_path / "file" / "below")


def test_threads_share_a_cache(cache):
    def put(start):
        for number in range(start, start + 50):
            cache.put_many([(number.to_bytes(32, "big"), Answer(str(number)))])

    threads = [threading.Thread(target=put, args=(start,)) for start in (0, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cache.get_many([number.to_bytes(32, "big") for number in range(100)])
    assert [answer.value for answer in found.values()] == [str(number) for number in range(100)]


def numbered(count):
    return [(number.to_bytes(32, "big"), Answer(f"answer {number}")) for number in range(count)]


@pytest.fixture
def plain(cache):
    """The same file, as diskcache alone sees it."""
    with diskcache.Cache(str(cache.folder), disk=RawDisk) as opened:
        yield opened


@given(st.lists(st.integers(0, 200), max_size=300), st.integers(0, 300))
def test_any_group_is_read_back_and_diskcache_agrees(cache, plain, names, cut):
    before, of_number = set(plain), keys(201)
    answers = [(of_number[name], Answer(f"{name}, {at}")) for at, name in enumerate(names)]
    cache.put_many(answers[:cut])
    cache.put_many(answers[cut:])
    known = dict(reversed(answers))  # the first one of a key counts, in a group and over groups
    absent = [b"x" * 32, b""]
    assert cache.get_many([*known, *absent, *known]) == known
    assert plain.check() == []  # the counts that diskcache's triggers keep are right
    assert len(plain) == len(before) + len(known)
    assert set(plain) == {*before, *known}
    assert b"textmill" in before
    assert all(type(plain.get(key)) is bytes for key in known)


def test_what_diskcache_itself_stored_is_read(cache):
    cache.put_many([(KEY, Answer("x")), (b"s" * 32, Split())])
    with diskcache.Cache(str(cache.folder), disk=RawDisk) as plain:
        encoded = plain.get(KEY), plain.get(b"s" * 32)
        plain.clear()
        assert cache.get_many([KEY, b"s" * 32]) == {}
        plain.set(KEY, encoded[0])
        plain.set(b"s" * 32, encoded[1], expire=3_600)
        assert cache.get_many([KEY, b"s" * 32]) == {KEY: Answer("x"), b"s" * 32: Split()}
        plain.set(KEY, encoded[0], expire=-1)
        assert cache.get_many([KEY]) == {}


def test_an_answer_that_is_stored_again_leaves_no_trace_of_the_first(cache):
    with diskcache.Cache(str(cache.folder), disk=RawDisk) as plain:
        plain.set(KEY, b"a damaged value that expires", expire=3_600, tag="t")
        cache.put_many([(KEY, Answer("new"))])
        _, expires, tag = plain.get(KEY, expire_time=True, tag=True)
        assert (expires, tag) == (None, None)
        assert plain.check() == []


def test_the_first_answer_stands_and_the_later_ones_get_it(cache):
    cache.put_many([(KEY, Answer("first"))])
    stored = cache.put_many([(KEY, Answer("second")), (b"n" * 32, Answer("new"))])
    assert stored[KEY] == Answer("first")
    assert cache.get_many([KEY, b"n" * 32]) == {KEY: Answer("first"), b"n" * 32: Answer("new")}
    assert cache.put_many([(KEY, Split())])[KEY] == Answer("first")
    assert cache.put_many([(b"o" * 32, Answer("only"))]) == {}


def test_a_damaged_answer_or_one_that_cannot_be_used_is_replaced(cache):
    with diskcache.Cache(str(cache.folder), disk=RawDisk) as plain:
        cache.put_many([(KEY, Answer("first"))])
        plain.set(KEY, plain.get(KEY)[:-1] + b"?")
    assert cache.put_many([(KEY, Answer("second"))]) == {KEY: Answer("second")}
    assert cache.get_many([KEY]) == {KEY: Answer("second")}
    seen = []
    cache.put_many([(KEY, Answer("third"))], lambda key, stored: seen.append((key, stored)))
    assert seen == [(KEY, Answer("second"))]
    assert cache.get_many([KEY]) == {KEY: Answer("third")}


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=6))
def test_what_put_many_returns_is_what_is_stored(cache, groups):
    of_number = keys(10)
    for at, names in enumerate(groups):
        answers = [(of_number[n], Answer(f"{at}, {place}")) for place, n in enumerate(names)]
        stored = cache.put_many(answers)
        now = cache.get_many(key for key, _ in answers)
        assert {key: stored.get(key, answer) for key, answer in reversed(answers)} == now


def test_many_answers_are_few_statements(cache, monkeypatch):
    executed = []
    connection = cache._store._con

    def execute(statement, *values):
        executed.append(statement.split("(")[0])
        return connection.execute(statement, *values)

    monkeypatch.setattr(diskcache.Cache, "_sql", property(lambda _: execute))
    cache.put_many(numbered(300))
    assert executed == ["BEGIN IMMEDIATE", *["INSERT INTO Cache"] * 7, "COMMIT"]  # 4 × 64, 32, 8, 4
    executed.clear()
    assert len(cache.get_many(key for key, _ in numbered(256))) == 256
    assert len(executed) == 256 // 32
