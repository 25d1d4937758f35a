"""A lock lives as long as its owner, however that one ends."""

import errno
import json
import os
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from pipeline.disk import locks
from pipeline.errors import LockedError, StorageError
from tests.support import ROOT

HOLDS = """
import os, sys
from pathlib import Path
from pipeline.disk import locks
way, path = sys.argv[1:]
if way == "lock":
    held = locks.lock_run_folder(Path(path))
    held.__enter__()
elif way == "shared":
    held = locks.lock_cache_folder(Path(path), 0.0)
elif way == "alone":
    held = locks.lock_cache_folder(Path(path), 0.0, alone=True)
else:
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    locks.acquire(held)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def owner(way, path):
    """Another process that holds the lock in this way."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, way, str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def kill(process):
    process.kill()
    process.wait()


def opened(path):
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def test_a_held_lock_is_refused_to_a_second_one_and_a_kill_frees_it(tmp_path):
    path = tmp_path / "file"
    with owner("acquire", path) as process, opened(path) as file:
        assert locks.is_held(file.fileno()) is True
        for is_shared in (False, True):
            with pytest.raises(BlockingIOError):
                locks.acquire(file.fileno(), is_shared=is_shared)
        kill(process)
        assert locks.is_held(file.fileno()) is False
        locks.acquire(file.fileno())


def test_the_question_whether_it_is_held_takes_nothing(tmp_path):
    with opened(tmp_path / "file") as first, opened(tmp_path / "file") as second:
        assert locks.is_held(first.fileno()) is False
        locks.acquire(second.fileno())
        assert locks.is_held(first.fileno()) is True


def test_shared_owners_do_not_exclude_each_other_and_own_nothing_alone(tmp_path):
    path = tmp_path / "file"
    with opened(path) as first, opened(path) as second, opened(path) as third:
        locks.acquire(first.fileno(), is_shared=True)
        locks.acquire(second.fileno(), is_shared=True)
        assert locks.is_held(third.fileno()) is False
        with pytest.raises(BlockingIOError):
            locks.acquire(second.fileno())


def test_without_file_locks_the_answer_is_unknown(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with opened(tmp_path / "file") as file:
        assert locks.is_held(file.fileno()) is None
    with pytest.raises(StorageError, match="No locks available"), locks.lock_run_folder(tmp_path / "o.run"):
        pass


def test_who_waits_has_the_lock_once_its_owner_is_gone(tmp_path):
    path = tmp_path / "file"
    with owner("acquire", path) as process, opened(path) as file:
        process.stdin.close()  # ends it
        locks.wait_for(file.fileno())
        with opened(path) as other:
            assert locks.is_held(other.fileno()) is True


def test_a_run_folder_has_one_run_which_the_second_one_names(tmp_path):
    folder = tmp_path / "o.run"
    with owner("lock", folder) as process:
        holder = json.loads((folder / "lock").read_bytes())
        assert holder["pid"] == process.pid
        refused = pytest.raises(LockedError, match=rf"held by another run .*pid {process.pid}")
        with refused, locks.lock_run_folder(folder):
            pass
        kill(process)
        assert (folder / "lock").exists()
        with locks.lock_run_folder(folder):
            assert json.loads((folder / "lock").read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b'{"host": "a", "pid": 1, "since": 1e99}'])
def test_a_holder_without_a_record_is_named_another_run(tmp_path, raw):
    folder = tmp_path / "o.run"
    folder.mkdir()
    with opened(folder / "lock") as file:
        file.write(raw)
        file.flush()
        locks.acquire(file.fileno())
        with pytest.raises(LockedError) as refused, locks.lock_run_folder(folder):
            pass
    assert str(refused.value) == f"{folder}: held by another run"


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_folder_that_holds_nothing_but_the_lock_goes_with_it(tmp_path, error):
    with suppress(ValueError), locks.lock_run_folder(tmp_path / "empty.run"):
        if error:
            raise error
    assert not (tmp_path / "empty.run").exists()
    with locks.lock_run_folder(tmp_path / "full.run"):
        (tmp_path / "full.run" / "parts").mkdir()
    assert sorted(each.name for each in (tmp_path / "full.run").iterdir()) == ["lock", "parts"]


def test_a_lock_that_its_holder_removed_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """Opened before the last holder removed the file, locked after it."""
    folder, real = tmp_path / "o.run", locks.acquire

    def removed_meanwhile(descriptor):
        (folder / "lock").unlink()
        real(descriptor)

    monkeypatch.setattr(locks, "acquire", removed_meanwhile)
    with pytest.raises(LockedError, match="held by another run"), locks.lock_run_folder(folder):
        pass


@pytest.mark.parametrize(
    ("way", "alone", "is_refused"),
    [("shared", False, False), ("shared", True, True), ("alone", False, True), ("alone", True, True)],
)
def test_the_cache_lock_is_shared_or_exclusive(
    tmp_path, monkeypatch, way, alone, is_refused
):
    monkeypatch.setattr(locks, "ALONE_SECONDS", 0.0)
    with owner(way, tmp_path) as process:
        if is_refused:
            with pytest.raises(LockedError, match="the answers are in use by"):
                locks.lock_cache_folder(tmp_path, 0.0, alone=alone)
            kill(process)
        os.close(locks.lock_cache_folder(tmp_path, 0.0, alone=alone))
