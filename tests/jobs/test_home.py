"""The home folder comes from the environment, or nothing is written."""

import os

import pytest

from jobs import home as homes
from jobs.home import NOWHERE, config_folder, expanded, home, home_to_read
from pipeline.errors import UsageError

VARIABLES = ("TEXTMILL_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME")


@pytest.fixture
def given(monkeypatch, tmp_path):
    def set_(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    monkeypatch.setattr(homes.sys, "platform", "linux")
    return set_


@pytest.mark.parametrize("path", [None, "", "/", "//", "relative", "/nonexistent", "/dev/null"])
def test_without_a_home_folder_nothing_is_written_and_nothing_is_found(given, path):
    given(**{} if path is None else {"HOME": path})
    with pytest.raises(UsageError, match=r"^HOME "):
        home()
    assert home_to_read() == NOWHERE
    assert not NOWHERE.exists()
    with pytest.raises(OSError, match="Not a directory"):
        NOWHERE.mkdir(parents=True)


def test_what_names_the_folder_itself_needs_no_home(given, tmp_path):
    given(TEXTMILL_HOME="/data/mill")
    assert os.fspath(home()) == "/data/mill"
    given(XDG_DATA_HOME="/data")
    assert os.fspath(home()) == "/data/textmill"
    given(HOME=tmp_path, XDG_DATA_HOME="data", XDG_CONFIG_HOME="conf")
    assert home() == tmp_path / ".local/share/textmill"  # a relative path is ignored
    assert config_folder() == tmp_path / ".config"


def test_a_tilde_is_the_home_folder(given, tmp_path, monkeypatch):
    given(TEXTMILL_HOME="~/mill", HOME=tmp_path)
    assert home() == tmp_path / "mill"
    given(TEXTMILL_HOME="~/mill")
    with pytest.raises(UsageError, match="HOME is not set"):
        home()
    with pytest.raises(UsageError, match=r"x: there is no home folder of ~nobody-of-this-name"):
        expanded("~nobody-of-this-name/x", "x")


def test_a_relative_home_in_a_deleted_folder_is_refused(given, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    given(TEXTMILL_HOME="mill")
    with pytest.raises(UsageError, match="the current folder does not exist any more"):
        home()
    assert homes.current_folder() == ""
