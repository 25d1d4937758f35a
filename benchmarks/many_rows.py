"""100,000 short rows through `openai`: memory, order, and a second run that sends nothing.

32 calls in flight, batches of 32, against the mock in its own process. Goal: peak RSS below 300 MB,
output in the order of the input, 0 calls in the second run.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
from measure import machine, peer, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    options = parser.parse_args()
    count = 10_000 if options.quick else 100_000
    env = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with tempfile.TemporaryDirectory() as folder:
        rows_path = Path(folder, "rows.jsonl")
        with rows_path.open("w") as file:
            for number in range(count):
                text = f"Row {number}: the gauge at weir {number % 97} read {number * 7 % 1000} mm."
                file.write(json.dumps({"id": number, "text": text}) + "\n")
        server = subprocess.Popen(
            [sys.executable, "-m", "jobs", "mock", "--port", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )
        try:
            assert server.stderr is not None
            url = server.stderr.readline().split()[-1]
            rows = []
            for name in ("first run", "second run"):
                measured = peer(
                    [
                        sys.executable,
                        "-m",
                        "jobs",
                        "run",
                        "embed",
                        "-i",
                        str(rows_path),
                        "--json",
                        "--id",
                        "id",
                        "-o",
                        f"{folder}/out.parquet",
                        "--kind",
                        "openai",
                        "--url",
                        f"{url}/v1",
                        "--model",
                        "m",
                        "--concurrency",
                        "32",
                        "--batch-size",
                        "32",
                        "--overlap",
                        "0",
                    ],
                    env | {"TEXTMILL_HOME": f"{folder}/home"},
                )
                ended = json.loads(measured.pop("out").strip().splitlines()[-1])
                ids = pq.read_table(f"{folder}/out.parquet", columns=["id"])["id"].to_pylist()
                rows.append(
                    {
                        "what": name,
                        **measured,
                        "calls": ended["calls"],
                        "cached": ended["cached"],
                        "rows_per_second": round(count / measured["wall_seconds"]),
                        "in_order": ids == list(range(count)),
                    }
                )
            with urllib.request.urlopen(f"{url}/_mock/bill") as reply:
                bill = json.load(reply)
            rows.append(
                {
                    "what": "the server's bill",
                    "calls": bill["calls"],
                    "inputs": bill["inputs"],
                    "repeated": bill["repeated_inputs"],
                }
            )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    report(rows, machine("textmill", "aiohttp", "pyarrow", "diskcache"), as_json=options.json)


if __name__ == "__main__":
    main()
