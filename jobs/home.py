"""The folders of the cached answers, of the register of runs, and of the user."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.text import shown

NOWHERE = Path(os.devnull, "textmill")
"""A folder that does not exist and cannot be created: the state where no home is known."""

_HINT = "set HOME, or TEXTMILL_HOME to a folder for answers"


def home() -> Path:
    """The folder of all state: $TEXTMILL_HOME, or else the platform's data folder.

    Raises: UsageError where no variable names a folder: nothing is written to `/` or to the current
    folder by accident.
    """
    if path := os.environ.get("TEXTMILL_HOME"):
        return expanded(path, "TEXTMILL_HOME")
    if sys.platform == "darwin":
        return user_home() / "Library/Application Support/textmill"
    return data_folder() / "textmill"


def home_to_read() -> Path:
    """The same for commands that write nothing: without a home, a folder that is nowhere."""
    try:
        return home()
    except UsageError:
        return NOWHERE


def user_home() -> Path:
    """$HOME. Raises: UsageError where it is not set, or is no folder for data."""
    path = os.environ.get("HOME", "")
    if not path:
        raise UsageError("HOME is not set, so there is no folder for answers", hint=_HINT)
    if path.strip("/") == "" or not path.startswith("/") or not Path(path).is_dir():
        raise UsageError(f"HOME = {shown(path)} is not the folder of a user", hint=_HINT)
    return Path(path)


def data_folder() -> Path:
    """$XDG_DATA_HOME, or its default. A relative path is ignored, as its specification says."""
    path = os.environ.get("XDG_DATA_HOME", "")
    return Path(path) if path.startswith("/") else user_home() / ".local/share"


def config_folder() -> Path:
    """$XDG_CONFIG_HOME, or its default."""
    path = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(path) if path.startswith("/") else user_home() / ".config"


def expanded(path: str, address: str) -> Path:
    """The absolute path, with `~` for a home folder. Raises: UsageError."""
    if path == "~" or path.startswith("~/"):
        return user_home() / path[2:]
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # `~name` of nobody
        name = path.partition("/")[0]
        raise UsageError(f"{address}: there is no home folder of {shown(name)}") from None
    except FileNotFoundError:
        raise UsageError(f"{address}: the current folder does not exist any more") from None


def current_folder() -> str:
    """The current folder; empty if it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return ""
