"""A file is replaced whole or not at all, and its name is durable."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disk import durable
from pipeline.disk.durable import rename, replaced, storage_errors, temporary_path
from pipeline.errors import StorageError


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "state.json"
    made.write_bytes(b"old")
    return made


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


def test_nothing_remains_beside_the_new_file(path):
    with replaced(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert names(path) == ["state.json"]


@given(pieces=st.lists(st.binary(max_size=40), max_size=8))
def test_what_is_written_is_what_is_read(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "pieces"
    with replaced(path) as file:
        file.writelines(pieces)
    assert path.read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_in_the_block_leaves_the_old_file_and_no_other(path, error):
    with pytest.raises(error), replaced(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(path) == ["state.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_other(path, call, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left"), replaced(path) as file:
        file.write(b"half")
    assert path.read_bytes() == b"old"
    assert names(path) == ["state.json"]


def test_the_bytes_are_durable_before_the_name_and_the_name_after_it(path, monkeypatch):
    calls = []

    def recorded(name, number):
        real = getattr(os, name)

        def call(*arguments):
            at = arguments[number]
            named = Path(f"/dev/fd/{at}").resolve() if isinstance(at, int) else Path(at)
            calls.append((name, named.name))
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    recorded("fsync", 0)
    recorded("replace", 1)
    with replaced(path) as file:
        file.write(b"new")
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    if Path("/proc/self/fd").is_dir():
        folder = path.parent.name
        assert [name for _, name in calls] == [temporary_path(path).name, path.name, folder]


@pytest.mark.parametrize("is_private", [False, True])
def test_a_private_file_is_for_its_owner_and_others_follow_the_umask(path, is_private):
    before = os.umask(0o022)
    try:
        with replaced(path, is_private=is_private) as file:
            file.write(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if is_private else 0o644)


def test_what_a_kill_left_is_replaced_and_its_mode_is_not_inherited(path):
    left = temporary_path(path)
    left.write_bytes(b"half of something longer")
    left.chmod(0o666)
    with replaced(path, is_private=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_under_the_temporary_name_is_not_followed(path):
    other = path.with_name("other")
    other.write_bytes(b"foreign")
    temporary_path(path).symlink_to(other)
    with replaced(path) as file:
        file.write(b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"foreign")
    assert not path.is_symlink()


def test_a_path_without_a_folder_is_in_the_current_one(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with replaced(Path("state.json")) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_link_is_renamed_as_a_link(path):
    link = path.with_name("link")
    link.symlink_to("nowhere")
    rename(link, path)
    assert path.is_symlink() and str(path.readlink()) == "nowhere"


def test_a_refusal_is_an_error_of_storage_with_the_path(tmp_path):
    path = tmp_path / "no folder" / "state.json"
    refused = pytest.raises(StorageError, match=r"state\.json: cannot be written \(No such file")
    with refused, storage_errors(path), replaced(path):
        pass


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (5, None)]
)
def test_only_a_full_disk_hints_at_room(number, hint):
    with pytest.raises(StorageError) as refused, storage_errors(Path("x")):
        raise OSError(number, "No")
    assert (refused.value.hint or "").startswith(hint or "")
    assert bool(refused.value.hint) is bool(hint)


def test_a_reopened_private_file_is_for_its_owner(tmp_path):
    with durable.open_private(tmp_path / "x") as file:
        file.write(b"x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
