"""How much CPU time does cutting cost, as a multiple of one encode pass over the same text?

    python benchmarks/chunk_speed.py [FOLDER] [--python PEERS_PYTHON] [--json]

512 tokens of o200k_base, overlap 0 and 64; `tiktoken.encode_ordinary` is timed in the same process,
in turns with the chunker, and the best of each is compared.
"""

from __future__ import annotations

import json
import platform
import time
from datetime import date
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
)

GOAL, GOAL_ADVERSARIAL = 1.3, 1.5
MAX_SECONDS = 8.0
MAX_TURNS = 9


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


def main() -> None:
    """Measure, then print the table or the records."""
    options = arguments(__doc__ or "")
    results = run_all(options, __file__, measure)
    if options.json:
        print(json.dumps(results))
        return
    found = {(row["chunker"], row["text"], row["overlap"]): row for row in results}
    versions = {row["chunker"]: row["version"] for row in results}
    names = list(dict.fromkeys(row["text"] for row in results))
    columns = ["CPU time / one encode pass"] + [f"{n} {o}" for n in names for o in OVERLAPS]
    rows = []
    for name in CUTTERS:
        if name not in versions:
            continue
        cells = [found[name, text, overlap] for text in names for overlap in OVERLAPS]
        shown = [f"{cell['ratio']:.2f}" if "ratio" in cell else "–" for cell in cells]
        rows.append([f"{name} {versions[name]}", *shown])
    print(
        f"{date.today()}, {platform.machine()}, Python {platform.python_version()}, {SIZE} tokens"
    )
    show(columns, rows)
    for row in results:
        goal = GOAL_ADVERSARIAL if row["text"] in ADVERSARIAL else GOAL
        if row["chunker"] == "structure" and row.get("ratio", 99) > goal:
            print(f"goal missed: {row['text']} {row['overlap']}: {row.get('ratio')} > {goal}")


if __name__ == "__main__":
    main()
