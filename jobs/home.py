"""The folders of the cached answers and of the register of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder of all state: $TEXTMILL_HOME, or else the platform's data folder."""
    path = os.environ.get("TEXTMILL_HOME")
    if path:
        return Path(path).expanduser().absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/textmill").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "textmill"


def answers_folder() -> Path:
    """The folder of the cached answers."""
    return home() / "answers"
