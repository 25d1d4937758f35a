"""Is `textmill --help` as light as click itself? Goal: at most 2 x `python -c "import click"`."""

from __future__ import annotations

import argparse
import statistics
import sys

from measure import machine, peer, report

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import click": ["-c", "import click"],
    "textmill --help": ["-m", "jobs", "--help"],
    "textmill run --help": ["-m", "jobs", "run", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under 60 seconds")
    options = parser.parse_args()
    walls: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(7 if options.quick else 31):
        for name, arguments in COMMANDS.items():
            walls[name].append(peer([sys.executable, *arguments])["wall_seconds"])
    base = statistics.median(walls["import click"])
    rows = [
        {
            "what": name,
            "median_ms": round(statistics.median(each) * 1000),
            "of_import_click": round(statistics.median(each) / base, 2),
        }
        for name, each in walls.items()
    ]
    report(rows, machine("click"), as_json=options.json)


if __name__ == "__main__":
    main()
