"""What ends a command becomes one line and a code; only a bug has a traceback."""

import errno
import os

import pytest

from jobs.cli.shell import exit_code_of
from pipeline.errors import StateError


def ended(capsys, error):
    def command():
        raise error

    code = exit_code_of(command)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(("error", "code", "line"), [
    (StateError("x: gone"), 12, "x: gone"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "n"), 2, "n: the name is too long"),
    (OSError(errno.EMFILE, "Too many open files", "n"), 13, "n: too many open files"),
    (OSError(errno.ENFILE, "Too many open files in system", b"n"), 13, "n: too many open files"),
    (PermissionError(errno.EACCES, "Permission denied", "n"), 13,
     "n: cannot be used (Permission denied)"),
    (OSError(errno.EIO, "Input/output error"), 13,
     "textmill: a system call failed (Input/output error)"),
    (ExceptionGroup("many", [OSError(errno.EMFILE, "Too many open files", "n")]), 13,
     "n: too many open files"),
    (KeyboardInterrupt(), 130, "interrupted"),
])  # fmt: skip
def test_an_error_is_one_line_and_a_code_of_the_table(capsys, error, code, line):
    found, err = ended(capsys, error)
    assert found == code
    assert err.splitlines()[0] == line
    assert "Traceback" not in err and "free space" not in err


@pytest.mark.parametrize("error", [MemoryError("malloc of 8 GB failed"), RecursionError("deep")])
def test_no_memory_and_no_stack_have_no_traceback(capsys, error):
    code, err = ended(capsys, error)
    first, second = err.splitlines()
    assert code == 1
    assert first.endswith(f"{type(error).__name__} {error}") and "test_shell.py:" in first
    assert second == "this is a bug in textmill; the answers so far are kept"


def test_a_bug_has_its_traceback(capsys):
    code, err = ended(capsys, ZeroDivisionError("one"))
    assert code == 1
    assert err.startswith("Traceback") and "ZeroDivisionError: one" in err


def test_a_deleted_folder_is_named(capsys, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, err = ended(capsys, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    assert (code, err) == (2, "the current folder does not exist any more\n")
