"""Does the machinery cost anything? The embed job against one plain loop over the same model.

The plain loop reads JSONL, cuts with the same chunker, embeds 64 chunks at a time and keeps the
vectors in a list: no cache, no order, no accounting, no durable output. Goal: at least 0.8 of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from measure import machine, peer, report

SAMPLES = Path(__file__).parent.parent / "sample_data" / "reports.jsonl"
PLAIN = """
import json, sys
from chunkers.structure import chunk_structure
from pathlib import Path
import wordllama
model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
vectors, waiting = [], []
for line in open(sys.argv[1], encoding="utf-8"):
    text = json.loads(line)["text"]
    for chunk in chunk_structure(text, size=256, overlap=32, tokenizer="wordllama"):
        waiting.append(text[chunk.start_char:chunk.end_char])
        if len(waiting) == 64:
            vectors.extend(model.embed(waiting, norm=True))
            waiting = []
if waiting:
    vectors.extend(model.embed(waiting, norm=True))
print(len(vectors))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under 60 seconds")
    options = parser.parse_args()
    copies, rounds = (6, 1) if options.quick else (30, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.jsonl")
        samples = [json.loads(line) for line in SAMPLES.read_text("utf-8").splitlines()]
        with path.open("w", encoding="utf-8") as file:
            for copy in range(copies):
                for row in samples:  # another first word in every paragraph: no chunk comes twice
                    text = row["text"].replace("\n\n", f"\n\n{copy}. ")
                    document = {"id": f"{row['id']}-{copy}", "text": f"{copy}. {text}"}
                    file.write(json.dumps(document, ensure_ascii=False) + "\n")
        best: dict[str, dict[str, float]] = {}
        for turn in range(rounds):
            runs = {
                "plain loop": ([sys.executable, "-c", PLAIN, str(path)], {}),
                "textmill": (
                    [
                        sys.executable,
                        "-m",
                        "jobs",
                        "run",
                        "embed",
                        "-i",
                        str(path),
                        "--id",
                        "id",
                        "-o",
                        f"{folder}/{turn}.parquet",
                        "--json",
                    ],
                    {"TEXTMILL_HOME": f"{folder}/home-{turn}"},
                ),
            }
            for name, (command, env) in runs.items():
                env["PYTHONPATH"] = os.pathsep.join([str(SAMPLES.parent.parent)])
                measured = peer(command, env)
                last = measured.pop("out").strip().splitlines()[-1]
                is_textmill = name == "textmill"
                measured["chunks"] = json.loads(last)["requests"] if is_textmill else int(last)
                if name not in best or measured["wall_seconds"] < best[name]["wall_seconds"]:
                    best[name] = measured
    plain = best["plain loop"]["chunks"] / best["plain loop"]["wall_seconds"]
    rows = [
        {
            "what": name,
            **measured,
            "chunks_per_second": round(measured["chunks"] / measured["wall_seconds"]),
            "of_plain": round(measured["chunks"] / measured["wall_seconds"] / plain, 2),
        }
        for name, measured in best.items()
    ]
    report(rows, machine("textmill", "wordllama", "tokenizers", "numpy"), as_json=options.json)


if __name__ == "__main__":
    main()
