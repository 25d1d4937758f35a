"""What does a run cost whose answers are all known?

A chat job over rows of 8 KB, chunks of 512 tokens, one request per call, 8 calls in flight, 50 ms a
call: once cold, once with every answer in the cache and nothing else left (output and run folder
are removed). Beside it one plain loop that reads the same rows, cuts them with the same chunker and
writes one row each. Goal: warm at least 20 x faster than cold.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from measure import machine, peer, report
from memory import ROOT, served

PLAIN = """
import json, sys
import pyarrow as pa
import pyarrow.parquet as pq
from chunkers import chunker
cut = chunker("structure")
ids, texts, answers = [], [], []
with open(sys.argv[1]) as file:
    for line in file:
        row = json.loads(line)
        text = row["text"]
        chunks = cut(text, size=512, overlap=0, tokenizer="o200k_base")
        starts = [text[each.start_char : each.end_char][:40] for each in chunks]
        ids.append(row["id"])
        texts.append(text)
        answers.append("\\n".join(starts))
table = pa.table({"id": ids, "text": texts, "answer": answers})
pq.write_table(table, sys.argv[2], compression="zstd", compression_level=3)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="150 rows, not 1,000")
    options = parser.parse_args()
    count = 150 if options.quick else 1_000
    rows = []
    with tempfile.TemporaryDirectory() as name, served("--latency", "0.05") as url:
        folder = Path(name)
        _write(folder / "rows.jsonl", count)
        command = [sys.executable, "-m", "jobs", "run", "ask", "--json", "--id", "id"]
        command += ["-i", f"{folder}/rows.jsonl", "-o", f"{folder}/out.parquet"]
        command += ["--url", f"{url}/v1", "--model", "m", "--concurrency", "8"]
        command += ["--batch-size", "1", "--size", "512", "--overlap", "0"]
        command += ["--prompt", "List the facts in this text.\n\n{chunk}"]
        env = {"PYTHONPATH": ROOT, "TEXTMILL_HOME": f"{folder}/home"}
        for what in ("cold", "warm"):
            found = peer(command, env)
            ended = json.loads(found.pop("out").strip().splitlines()[-1])
            calls, requests = ended["calls"], ended["requests"]
            rows.append({"what": what, **found, "requests": requests, "calls": calls})
            (folder / "out.parquet").unlink()
            shutil.rmtree(folder / "out.parquet.run")
        plain = [sys.executable, "-c", PLAIN, f"{folder}/rows.jsonl", f"{folder}/plain.parquet"]
        found = peer(plain, env)
        found.pop("out")
        rows.append({"what": "plain loop: read, cut, write", **found})
    cold, warm, alone = (row["wall_seconds"] for row in rows)
    for row in rows:
        row["rows_per_second"] = round(count / row["wall_seconds"])
    rows[1]["of cold"] = f"{cold / warm:.1f} x faster"
    rows[1]["of plain"] = round(alone / warm, 2)
    report(rows, machine("textmill", "pyarrow", "diskcache", "tiktoken"), as_json=options.json)


def _write(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number in range(count):
            parts, size, n = [], 0, 0
            while size < 8_000:
                level = (number * 31 + n) * 7 % 9_973
                weir = level % 97
                text = f"On day {n} of year {number} the gauge at weir {weir} read {level} mm. "
                parts.append(text + ("The keeper closed the sluice.\n\n" if n % 4 == 3 else ""))
                size, n = size + len(parts[-1]), n + 1
            file.write(json.dumps({"id": number, "text": "".join(parts)}) + "\n")


if __name__ == "__main__":
    main()
