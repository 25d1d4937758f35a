"""How light is starting textmill?

`--help` next to `import click`, then `status`, `report` and a run in which nothing changed: what a
timer or a person pays before anything is sent. With `--before CHECKOUT` every command also runs
from that checkout, in turns, so that the ratio of both comes from one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measure import machine, peer, report

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from jobs.mock import serving  # noqa: E402

ROWS = 10_000


def commands(folder: Path, url: str) -> dict[str, list[str]]:
    """What is started, by name; arguments of Python."""
    run = ["-P", "-m", "jobs", "run", "embed", "-i", str(folder / "rows.jsonl"), "--id", "id"]
    run += ["-o", str(folder / "vectors.parquet"), "--kind", "openai", "--model", "m"]
    run += ["--url", f"{url}/v1"]
    return {
        "python -c pass": ["-c", "pass"],
        "import click": ["-c", "import click"],
        "textmill --help": ["-P", "-m", "jobs", "--help"],
        "textmill run --help": ["-P", "-m", "jobs", "run", "--help"],
        "textmill status": ["-P", "-m", "jobs", "status"],
        "textmill report": ["-P", "-m", "jobs", "report"],
        f"run, nothing changed in {ROWS:,} rows": run,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under 60 seconds")
    parser.add_argument("--before", metavar="CHECKOUT", type=Path, help="compare with this one")
    options = parser.parse_args()
    checkouts = {"": HERE} | ({"before": options.before.resolve()} if options.before else {})
    with tempfile.TemporaryDirectory() as name:
        rows = [
            measure(Path(name, key or "now"), checkout, 5 if options.quick else 15)
            for key, checkout in checkouts.items()
        ]
    now, before = rows[0], rows[-1]
    base = now["import click"]
    table = [
        {
            "what": what,
            "cpu_ms": round(seconds * 1000),
            "of_import_click": round(seconds / base, 2),
        }
        | ({"of_before": round(seconds / before[what], 2)} if options.before else {})
        for what, seconds in now.items()
    ]
    report(table, machine("click", "pyarrow", "tiktoken"), as_json=options.json)


def measure(folder: Path, checkout: Path, times: int) -> dict[str, float]:
    """CPU seconds of each command run from this checkout, the minimum of several runs."""
    folder.mkdir()
    with (folder / "rows.jsonl").open("w") as file:
        for n in range(ROWS):
            text = f"Row {n}: the gauge at Oxmead weir stood at {n % 977} mm above datum."
            file.write(json.dumps({"id": n, "text": text.ljust(110, ".")}) + "\n")
    env = {"PYTHONPATH": str(checkout), "TEXTMILL_HOME": str(folder / "home")}
    with serving(dimension=8) as mock:
        started = commands(folder, mock.url)
        *_, run = started.values()
        peer([sys.executable, *run], env)  # the run that pays; the others need no server
    found: dict[str, list[float]] = {what: [] for what in started}
    for _ in range(times):
        for what, arguments in started.items():
            found[what].append(peer([sys.executable, *arguments], env)["cpu_seconds"])
    return {what: min(each) for what, each in found.items()}


if __name__ == "__main__":
    main()
