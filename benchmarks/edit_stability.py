"""How many chunks are new after one sentence of a long document was changed, added or removed?

    python benchmarks/edit_stability.py [FOLDER] [--python PEERS_PYTHON] [--edits N] [--json]

512 tokens of o200k_base, overlap 0 and 64. Every new chunk is paid again in a nightly run. The
edits are the same for all chunkers; the sentences written in come from elsewhere in the document,
and are found by a plain rule that no chunker here uses. Each chunker runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from chunk_peers import CUTTERS, ENCODING, OVERLAPS, ROOT, SIZE, Cutter, Span
from measure import machine, peer, report
from retrieval_measures import versions

MAX_CHARS = 120_000
GOAL_MEDIAN, GOAL_P95 = 2, 4

_SENTENCE = re.compile(r"[^.!?。！？\n]{8,}(?:[.!?](?=\s)|[。！？]+[”’」』）]?)")


def documents(folder: Path) -> dict[str, str]:
    """Name -> text: the corpora of the folder, and the longest of the sample data."""
    texts = {path.stem: path.read_bytes().decode("utf-8") for path in sorted(folder.glob("*.md"))}
    texts.pop("README", None)
    if "state_of_the_union" in texts:
        texts["one paragraph"] = " ".join(texts["state_of_the_union"].split())
    rows = [
        json.loads(line)
        for line in (ROOT / "sample_data/reports.jsonl").read_text("utf-8").splitlines()
    ]
    english = max((row for row in rows if row["language"] == "en"), key=lambda r: len(r["text"]))
    texts["long history"] = english["text"]
    texts["chinese"] = "\n\n".join(row["text"] for row in rows if row["language"] == "zh")
    texts["markdown"] = "\n\n".join(
        row["text"] for row in rows if row["kind"] == "markdown" and row["language"] == "en"
    )
    return {name: text[:MAX_CHARS] for name, text in texts.items() if text}


def edited(text: str, edits: int) -> list[str]:
    """The text after each of the edits, one at a time; a third each are changes, gains, losses."""
    rng = random.Random(20261120)
    spans = [match.span() for match in _SENTENCE.finditer(text)]
    made = []
    for number in range(edits):
        start, end = rng.choice(spans)
        other = text[slice(*rng.choice(spans))].strip()
        gap = " " if text[start : start + 1].isspace() else ""
        if number % 3 == 0:
            made.append(text[:start] + gap + other + text[end:])
        elif number % 3 == 1:
            made.append(text[:end] + (gap or " " * other.isascii()) + other + text[end:])
        else:
            made.append(text[:start] + text[end:])
    return made


def semantic(text: str, size: int, overlap: int) -> list[Span]:
    """As the cutters of the peers, with the embedded model."""
    from chunkers.semantic import chunk_semantic
    from pipeline.endpoints.local import embed

    chunks = chunk_semantic(text, size=size, overlap=overlap, tokenizer=ENCODING, embed=embed)
    return [(c.start_char, c.end_char, text[c.start_char : c.end_char]) for c in chunks]


CHUNKERS: dict[str, tuple[str, Cutter]] = CUTTERS | {"semantic": ("", semantic)}


def new_chunks(cut: Cutter, text: str, overlap: int, edits: int) -> list[int]:
    """Per edit the number of chunks with a text that no chunk had before."""
    before = {piece for _, _, piece in cut(text, SIZE, overlap)}
    return [
        sum(piece not in before for _, _, piece in cut(one, SIZE, overlap))
        for one in edited(text, edits)
    ]


def main() -> None:
    """Edit, cut again, count; the table or the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="texts and questions, docs/chunking-tables.md")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--only", default="", help="names of chunkers, with commas")
    parser.add_argument("--edits", type=int, default=60, help="of each document")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"{options.folder}: the folder with the texts is missing", file=sys.stderr)
        sys.exit(2)
    texts = documents(options.folder)
    if options.alone:
        try:
            cut = CHUNKERS[options.alone][1]
            counts = {
                name: [new_chunks(cut, text, overlap, options.edits) for overlap in OVERLAPS]
                for name, text in texts.items()
            }
        except ImportError as error:
            sys.exit(str(error))
        print(json.dumps(counts))
        return
    rows: list[dict[str, Any]] = []
    missed = []
    for name, (distribution, _) in CHUNKERS.items():
        if options.only and name not in options.only.split(","):
            continue
        python = options.python if distribution else sys.executable
        command = [python, __file__, str(options.folder), "--alone", name]
        try:
            out = peer([*command, "--edits", str(options.edits)])["out"]
            counts = json.loads(out.splitlines()[-1])
        except (SystemExit, IndexError) as error:
            print(f"{name}: skipped, not installed or failed ({error})", file=sys.stderr)
            continue
        for index, overlap in enumerate(OVERLAPS):
            row: dict[str, Any] = {"chunker": name, "overlap": overlap}
            by_text = {text: distances[index] for text, distances in counts.items()}
            by_text["all"] = [count for distances in counts.values() for count in distances[index]]
            for text, distances in by_text.items():
                median, high = np.percentile(distances, (50, 95))
                row[text] = f"{median:g} / {high:g} / {max(distances)}"
                if name == "structure" and (median > GOAL_MEDIAN or high > GOAL_P95):
                    missed.append(f"goal missed: {name}, overlap {overlap}, {text}: {row[text]}")
            rows.append(row)
    distributions = sorted({CHUNKERS[row["chunker"]][0] for row in rows} - {""})
    environment = machine("tiktoken", "wordllama") | versions(options.python, distributions)
    report(rows, environment, as_json=options.json)
    if not options.json:
        print("each cell: median / 95th percentile / most; goal 2 / 4")
        print("\n".join(missed) or "every goal is met")


if __name__ == "__main__":
    main()
