"""How large do chunks come out for a given size, and at which places do they end?

    python benchmarks/chunk_sizes.py [FILE.jsonl ...] [--quick] [--json]

Tokens of o200k_base, over the 43 documents of `sample_data` or the column `text` of other files.
`full`: chunks of at least 90 % of the size. The last columns are shares of chunk ends, by the
strongest boundary at that place: after a paragraph, a heading or the text; after a line; after a
sentence; inside a sentence.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, report

from chunkers import CHUNKERS
from chunkers.boundaries.levels import PARAGRAPH, SENTENCE
from chunkers.boundaries.scan import scan

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("structure", "markdown", "fixed")
SIZES, OVERLAPS = (128, 256, 512, 1_024), (0, 32)


def read(paths: list[Path]) -> list[str]:
    """The texts of these files."""
    lines = (line for path in paths for line in path.read_text("utf-8").splitlines())
    return [json.loads(line)["text"] for line in lines]


def ends_of(text: str) -> dict[int, str]:
    """The kind of each boundary of a text, by its place."""
    found = scan(text, 0, len(text))
    kinds = {}
    for place, level in zip(found.at.tolist(), found.level.tolist(), strict=True):
        is_line = level > SENTENCE
        kinds[place] = "paragraph" if level >= PARAGRAPH else "line" if is_line else "sentence"
        if level < SENTENCE:
            kinds[place] = "inside"
    return kinds


def measured(texts: list[str], method: str, size: int, overlap: int) -> dict[str, Any]:
    """One row of the table."""
    tokens: list[int] = []
    ends: Counter[str] = Counter()
    for text in texts:
        kinds = ends_of(text)
        for chunk in CHUNKERS[method](text, size=size, overlap=overlap):
            tokens.append(chunk.tokens)
            ends[kinds.get(chunk.end_char, "inside")] += 1
    quantiles = np.percentile(tokens, (5, 50, 95))
    row = {"method": method, "size": size, "overlap": overlap, "chunks": len(tokens)}
    row |= {"mean": round(float(np.mean(tokens)))}
    row |= {n: round(float(q)) for n, q in zip(("p5", "median", "p95"), quantiles, strict=True)}
    row["full %"] = round(100 * float(np.mean(np.array(tokens) >= 0.9 * size)))
    for kind in ("paragraph", "line", "sentence", "inside"):
        row[f"{kind} %"] = round(100 * ends[kind] / len(tokens))
    return row


def main() -> None:
    """Cut all texts with every method and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="JSONL with the column text")
    parser.add_argument("--quick", action="store_true", help="only size 256")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    texts = read(options.files or [ROOT / "sample_data" / "reports.jsonl"])
    sizes = (256,) if options.quick else SIZES
    rows = [
        measured(texts, method, size, overlap)
        for method in METHODS
        for size in sizes
        for overlap in OVERLAPS
    ]
    report(rows, machine("tiktoken", "numpy"), as_json=options.json)


if __name__ == "__main__":
    main()
