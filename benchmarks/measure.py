"""What every benchmark shares: a process of its own for each peer, and one table at the end.

A peer is a command; it runs in a fresh process so that no import, heap or cache of one peer helps
or hurts another. Figures are ratios within one run: machines differ, and so do minutes.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def peer(command: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run to its end; wall and CPU seconds, peak RSS in MB, and what it printed.

    CPU and RSS are of this child alone and what it started, read from the kernel by wait4.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | (env or {})
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command[:4])} ... ended with {process.returncode}")
    return {
        "wall_seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "rss_mb": usage.ru_maxrss // (1 if sys.platform == "linux" else 1024) // 1024,
        "out": out,
    }


def machine(*packages: str) -> dict[str, str]:
    """The environment of the figures."""
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    for name in packages:
        try:
            environment[name] = version(name)
        except PackageNotFoundError:
            environment[name] = "not installed"
    return environment


def report(rows: list[dict[str, Any]], environment: dict[str, str], *, as_json: bool) -> None:
    """The table, for people or as one JSON object."""
    if as_json:
        print(json.dumps({"machine": environment, "rows": rows}))
        return
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    widths = {c: max(len(c), *(len(str(row.get(c, ""))) for row in rows)) for c in columns}
    for line in (dict(zip(columns, columns, strict=True)), *rows):
        print("  ".join(str(line.get(c, "")).ljust(widths[c]) for c in columns).rstrip())


def own_peak_mb() -> int:
    """Peak RSS of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
