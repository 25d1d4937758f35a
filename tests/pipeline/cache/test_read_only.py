"""A cache that cannot be written is read, and nothing in its folder changes."""

from contextlib import closing

import pytest

from pipeline.cache import read_only
from pipeline.cache.read_only import open_to_read
from pipeline.cache.store import AnswerCache
from pipeline.records import Answer

ANSWER = Answer(b"\x00\x00\x80?" * 4)


def files(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    with closing(AnswerCache(tmp_path / "answers")) as cache:
        cache.put_many([(b"k" * 32, ANSWER)])
        cache.remember("http://x", b"{}")
    return tmp_path / "answers"


@pytest.fixture
def unwritable(monkeypatch):
    monkeypatch.setattr(read_only.os, "access", lambda path, mode: False)


def test_without_a_cache_there_is_nothing_to_read(tmp_path):
    assert open_to_read(tmp_path) is None
    assert open_to_read(tmp_path / "no" / "folder") is None
    assert not [*tmp_path.iterdir()]


def test_a_writable_cache_opens_as_ever(folder):
    with closing(open_to_read(folder)) as cache:
        assert type(cache) is AnswerCache


def test_a_cache_that_cannot_be_written_is_read(folder, unwritable):
    before = files(folder)
    with closing(open_to_read(folder)) as cache:
        assert type(cache) is not AnswerCache
        assert cache.get_many([b"k" * 32, b"m" * 32]) == {b"k" * 32: ANSWER}
        assert cache.contains(b"k" * 32) and not cache.contains(b"m" * 32)
        assert (cache.recall("http://x"), cache.recall("http://y")) == (b"{}", None)
        assert [len(entries) for entries in cache.entries()] == [3]  # with the mark of the file
    assert {name: content for name, (content, _) in files(folder).items() if name in before} == {
        name: content for name, (content, _) in before.items()
    }


def test_answers_of_a_run_in_progress_are_read(folder, unwritable):
    with closing(AnswerCache(folder)) as writer:
        writer.put_many([(b"n" * 32, ANSWER)])  # in the log, not in the file yet
        with closing(open_to_read(folder)) as cache:
            assert cache.get_many([b"n" * 32]) == {b"n" * 32: ANSWER}
