"""Does memory grow with the rows, or with one document beyond its own text?

The same job over 100,000 and 1,000,000 short rows, for embeddings (384 dimensions) and for chat,
and one document of 200 MB; every run in a process of its own against the mock in another one.
Goals: peak RSS of a million rows at most 1.1 x that of 100,000 and below 400 MB; that of the one
document at most its text as Python holds it + 300 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import machine, peer, report

ROOT = str(Path(__file__).parent.parent)
TASKS = {
    "embed": ["embed"],
    "chat": ["ask", "--prompt", "What is it? {chunk}", "--set", "parameters.max_tokens=40"],
}
WRITE_ROWS = """
import json, sys
with open(sys.argv[1], "w") as file:
    for number in range(int(sys.argv[2])):
        text = f"Row {number}: the gauge at weir {number % 97} read {number * 7 % 1000} mm."
        file.write(json.dumps({"id": number, "text": text}) + "\\n")
"""
WRITE_DOCUMENT = """
import json, sys
part = "Entry {n}. The gauge at weir {w} read {m} mm, and the keeper wrote it down.\\n\\n"
made, size, n = [], 0, 0
while size < int(sys.argv[2]):
    made.append(part.format(n=n, w=n % 97, m=n * 7 % 1000))
    size, n = size + len(made[-1]), n + 1
with open(sys.argv[1], "w") as file:
    file.write(json.dumps({"id": 1, "text": "".join(made)}) + "\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 rows, and 8 MB")
    options = parser.parse_args()
    few, many, megabytes = (1_000, 10_000, 8) if options.quick else (100_000, 1_000_000, 200)
    rows = []
    with tempfile.TemporaryDirectory() as folder, served() as url:
        for task in TASKS:
            measured = [_rows(Path(folder), url, task, count) for count in (few, many)]
            measured[1]["of fewer rows"] = round(measured[1]["rss_mb"] / measured[0]["rss_mb"], 2)
            rows += measured
        rows.append(_document(Path(folder), url, megabytes))
    report(rows, machine("textmill", "pyarrow", "diskcache", "msgspec"), as_json=options.json)


def _rows(folder: Path, url: str, task: str, count: int) -> dict[str, Any]:
    path = folder / f"rows-{count}.jsonl"
    if not path.exists():
        subprocess.run([sys.executable, "-c", WRITE_ROWS, path, str(count)], check=True)
    measured = _run(folder, url, task, path, "--batch-size", "32" if task == "embed" else "1")
    return {"what": f"{count:,} rows, {task}", **measured}


def _document(folder: Path, url: str, megabytes: int) -> dict[str, Any]:
    path = folder / "document.jsonl"
    size = str(megabytes * 1_000_000)
    # In a process of its own: Linux counts what a parent held as its child's peak.
    subprocess.run([sys.executable, "-c", WRITE_DOCUMENT, path, size], check=True)
    measured = _run(folder, url, "embed", path, "--batch-size", "256", "--size", "1024")
    beyond = measured["rss_mb"] - megabytes  # ASCII: one byte a character
    return {"what": f"one document, {megabytes} MB", **measured, "beyond its text": beyond}


def _run(folder: Path, url: str, task: str, path: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "jobs", "run", *TASKS[task], "-i", str(path), "--json"]
    name = f"{path.stem}-{task}"
    command += ["--id", "id", "-o", f"{folder}/{name}.parquet", "--kind", "openai"]
    command += ["--url", f"{url}/v1", "--model", "m", "--concurrency", "32", *more]
    measured = peer(command, {"PYTHONPATH": ROOT, "TEXTMILL_HOME": f"{folder}/home-{name}"})
    ended = json.loads(measured.pop("out").strip().splitlines()[-1])
    return {**measured, "requests": ended["requests"], "calls": ended["calls"]}


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The address of a mock in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs", "mock", "--port", "0", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ROOT},
    )
    try:
        assert server.stderr is not None
        yield server.stderr.readline().split()[-1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    main()
