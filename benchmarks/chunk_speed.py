"""How much CPU time does cutting cost, as a multiple of one encode pass over the same text?

    python benchmarks/chunk_speed.py [FOLDER] [--python PEERS_PYTHON] [--short] [--json]

512 tokens of o200k_base, overlap 0 and 64; `tiktoken.encode_ordinary` is timed in the same process,
in turns with the chunker, and the best of each is compared.
"""

from __future__ import annotations

import json
import platform
import random
import time
from datetime import date
from pathlib import Path
from typing import Any

from chunk_peers import (
    ADVERSARIAL,
    CUTTERS,
    OVERLAPS,
    SIZE,
    Cutter,
    arguments,
    encoding,
    run_all,
    show,
    texts,
)

GOAL, GOAL_ADVERSARIAL = 1.3, 1.5
MAX_SECONDS = 8.0
MAX_TURNS = 9
SHORT_CHARS = (100, 300, 600, 1000, 2000)
SHORT_PIECES = 100


def measure(cut: Cutter, text: str, which: str, overlap: int) -> dict[str, Any]:
    """The ratio, and what it is made of."""
    encode = encoding().encode_ordinary
    cut(text[:2000], SIZE, overlap)
    base = used = float("inf")
    began = time.perf_counter()
    chunks = 0
    for turn in range(MAX_TURNS):
        before = time.process_time()
        encode(text)
        middle = time.process_time()
        chunks = len(cut(text, SIZE, overlap))
        after = time.process_time()
        base, used = min(base, middle - before), min(used, after - middle)
        if turn and time.perf_counter() - began > MAX_SECONDS:
            break
    return {
        "ratio": round(used / base, 3),
        "cpu_seconds": round(used, 4),
        "encode_seconds": round(base, 4),
        "chunks": chunks,
        "chars": len(text),
    }


def measure_short(folder: Path) -> list[dict[str, Any]]:
    """For pieces of each text: the encode pass, and what `structure` costs above it."""
    cut, encode, rows = CUTTERS["structure"][1], encoding().encode_ordinary, []
    for which, text in texts(folder).items():
        if which in ADVERSARIAL:
            continue
        for chars in SHORT_CHARS:
            rng = random.Random(chars)
            starts = [rng.randrange(len(text) - chars) for _ in range(SHORT_PIECES)]
            pieces = [text[start : start + chars] for start in starts]
            best = [float("inf")] * (1 + len(OVERLAPS))
            for _ in range(MAX_TURNS):
                for column, overlap in enumerate((None, *OVERLAPS)):
                    before = time.process_time()
                    for piece in pieces:
                        encode(piece) if overlap is None else cut(piece, SIZE, overlap)
                    best[column] = min(best[column], time.process_time() - before)
            encoded, *used = (1e6 * seconds / SHORT_PIECES for seconds in best)
            above = {
                f"above {o}": round(u - encoded, 1) for o, u in zip(OVERLAPS, used, strict=True)
            }
            rows.append({"text": which, "chars": chars, "encode": round(encoded, 1)} | above)
    return rows


def main() -> None:
    """Measure, then print the table or the records."""
    options = arguments(__doc__ or "")
    if options.short:
        rows = measure_short(options.folder)
        if options.json:
            print(json.dumps(rows))
        else:
            print("microseconds of CPU time for one short text: encode pass, and what is above it")
            show(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
        return
    results = run_all(options, __file__, measure)
    if options.json:
        print(json.dumps(results))
        return
    by_case = {(row["chunker"], row["text"], row["overlap"]): row for row in results}
    versions = {row["chunker"]: row["version"] for row in results}
    names = list(dict.fromkeys(row["text"] for row in results))
    columns = ["CPU time / one encode pass"] + [f"{n} {o}" for n in names for o in OVERLAPS]
    cells_of: list[list[str]] = []
    for name in CUTTERS:
        if name not in versions:
            continue
        cells = [by_case[name, text, overlap] for text in names for overlap in OVERLAPS]
        shown = [f"{cell['ratio']:.2f}" if "ratio" in cell else "–" for cell in cells]
        cells_of.append([f"{name} {versions[name]}", *shown])
    print(
        f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, {SIZE} tokens"
    )
    show(columns, cells_of)
    for row in results:
        goal = GOAL_ADVERSARIAL if row["text"] in ADVERSARIAL else GOAL
        if row["chunker"] == "structure" and row.get("ratio", 99) > goal:
            print(f"goal missed: {row['text']} {row['overlap']}: {row.get('ratio')} > {goal}")


if __name__ == "__main__":
    main()
