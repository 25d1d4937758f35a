"""The name of a run. It has a file of its own so that the register needs nothing heavy for it."""

from __future__ import annotations

import os
import time


def new_run_id() -> str:
    """Begins with the time, unique without coordination; never part of a data file."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + os.urandom(3).hex()
