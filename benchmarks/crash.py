"""Does a crash at any instant cost more than the requests in flight, or change a byte?

Blows against whole runs of the command line, each followed by the same command again: SIGKILL at
random instants, SIGKILL at every operation on the disk (SQLite's own among them), half a write and
then SIGKILL, and EIO or ENOSPC at every operation, once and for good. The mock's bill shows what
was paid. Goals: 0 settled answers lost, paid again at most what was in flight at each blow, the
bytes of an undisturbed run, exit 13 where the disk failed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from measure import machine, report

sys.path.insert(0, str(Path(__file__).parent.parent))

from jobs.mock import serving
from tests.support.crashing import (
    IN_FLIGHT,
    SCRIPT,
    JobFolder,
    Life,
    Processes,
    boundaries,
    chain,
    strike,
)
from tests.support.served import KEY

LATENCY_SECONDS = 0.01
BLOWS = (
    ("kill", "out.parquet", False),
    ("kill", "out", False),
    ("tear", "out.parquet", False),
    ("EIO", "out.parquet", False),
    ("EIO", "out.parquet", True),
    ("ENOSPC", "out.parquet", False),
    ("ENOSPC", "out", True),
)
"""What happens, to which kind of output, once or from then on."""
QUICK = (BLOWS[0], BLOWS[1], BLOWS[3], BLOWS[6])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="each name once, 30 kills")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    options = parser.parse_args()
    rows, wrong = [], list[str]()
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Processes()) as made,
        serving(SCRIPT, key=KEY) as mock,
    ):
        for row, problems in _measured(made, mock, Path(folder), options):
            rows.append(row)
            wrong += problems
    report(rows, machine("textmill", "diskcache", "pyarrow"), as_json=options.json)
    for each in wrong:
        print(each, file=sys.stderr)
    sys.exit(bool(wrong))


def _measured(
    made: Processes, mock: Any, folder: Path, options: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    kills = 30 if options.quick else 500
    yield _random(made, mock, JobFolder(folder / "random", rows=60), kills, options.seed)
    for action, output, for_good in QUICK if options.quick else BLOWS:
        job = JobFolder(folder / f"{action}-{output}-{for_good}", output=output)
        each = _short if options.quick else _long
        yield each(made, mock, job, action, for_good)


def _random(
    made: Processes, mock: Any, job: JobFolder, kills: int, seed: int
) -> tuple[dict[str, Any], list[str]]:
    draw = random.Random(seed)
    argv = job.argv(mock.url)
    mock.latency = LATENCY_SECONDS
    began = time.perf_counter()
    made.run(job, *argv)
    whole = time.perf_counter() - began
    expected = job.published()
    assert expected is not None
    life = Life(job, mock, expected)
    while life.blows < kills:
        pid = made.start(job, *argv)
        time.sleep(draw.uniform(0.0, whole))
        os.kill(pid, signal.SIGKILL)
        life.took(f"kill {life.blows}", made.wait(job, pid), (-signal.SIGKILL,))
    life.took("the end", made.run(job, *argv), ())
    mock.latency = 0.0
    return _row("SIGKILL at random", life.blows, life.blows, life.lost, life.again, life.found)


def _long(
    made: Processes, mock: Any, job: JobFolder, action: str, for_good: bool
) -> tuple[dict[str, Any], list[str]]:
    """A fresh start for each operation of a run, numbered within its name."""
    all_of_them = boundaries(made, job, mock)
    expected = job.published()
    assert expected is not None
    blows = lost = again = 0
    problems: list[str] = []
    for each in all_of_them:
        if action == "tear" and not each.only.startswith("write"):
            continue
        disk = job.disk(action, each.at, only=each.only, for_good=for_good)
        struck = strike(made, job, mock, disk=disk)
        problems += [f"{action} {each}: {problem}" for problem in struck.problems(expected)]
        blows += struck.first.code in (-signal.SIGKILL, 13)
        lost += struck.answered - struck.kept
        again += struck.again
    return _row(_name(action, job, for_good), len(all_of_them), blows, lost, again, problems)


def _short(
    made: Processes, mock: Any, job: JobFolder, action: str, for_good: bool
) -> tuple[dict[str, Any], list[str]]:
    """One job that meets a blow at the first operation of each name."""
    names = list(dict.fromkeys(each.only for each in boundaries(made, job, mock)))
    expected = job.published()
    assert expected is not None
    life = Life(job, mock, expected)
    chain(made, life, names, action, for_good=for_good)
    name = _name(action, job, for_good)
    return _row(name, len(names), life.blows, life.lost, life.again, life.found)


def _name(action: str, job: JobFolder, for_good: bool) -> str:
    blow = {"kill": "SIGKILL", "tear": "half a write, SIGKILL"}.get(action, action)
    kind = "a file" if job.output.suffix else "a folder"
    return f"{blow}{' for good' if for_good else ''}, {kind}"


def _row(
    name: str, boundaries: int, blows: int, lost: int, again: int, problems: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """`unkept`: answers under way to the disk at a blow; these, and no others, are paid again."""
    row = {
        "blow": name,
        "boundaries": boundaries,
        "blows": blows,
        "settled answers lost": max(0, again - lost),
        "unkept": lost,
        "paid again": again,
        "bound": blows * IN_FLIGHT,
        "wrong": len(problems),
    }
    return row, problems


if __name__ == "__main__":
    main()
