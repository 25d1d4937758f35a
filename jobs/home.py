"""Where textmill keeps answers and the register of runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder of all state: $TEXTMILL_HOME, else the platform's folder for data."""
    named = os.environ.get("TEXTMILL_HOME")
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/textmill").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "textmill"


def answers_folder() -> Path:
    """Where paid answers are kept."""
    return home() / "answers"
