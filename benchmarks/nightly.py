"""A table that changes a little every night: what does the second night cost against the first?

200,000 rows of 8 KB (JSONL with ids), embeddings of 384 dimensions, one row per chunk of at most
512 tokens, a directory output; an endpoint that takes 50 ms a call, batches of 32, 32 calls in
flight. The nights: nothing changed; 1 % changed, 0.5 % inserted and 0.5 % removed at random; the
same number within 5 % of the rows. Goals, as shares of the first run's wall time: <= 3 % and no
call, <= 10 %, <= 5 %; requests = those whose rendered input is new.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import machine, peer, report

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import chunkers  # noqa: E402

WORDS = (
    *("the", "gauge", "at", "river", "station", "reported", "a", "level", "of", "water", "since"),
    *("morning", "and", "observers", "noted", "steady", "rain", "over", "upper", "valley"),
)
TEXT_BYTES = 8_000


def text(number: int, version: int) -> str:
    """About 8 KB in sentences, the same for the same number and version."""
    make = random.Random(number << 8 | version)
    sentences, size = [], 0
    while size < TEXT_BYTES:
        words = make.choices(WORDS, k=make.randint(8, 20))
        sentence = f"{' '.join(words).capitalize()} {make.randint(0, 99_999)}."
        sentences.append(sentence)
        size += len(sentence) + 1
    return " ".join(sentences)[:TEXT_BYTES]


def write(path: Path, rows: list[tuple[int, int]]) -> None:
    with path.open("w") as file:
        for number, version in rows:
            file.write(json.dumps({"id": number, "text": text(number, version)}) + "\n")


def edited(rows: list[tuple[int, int]], share: float, seed: int) -> list[tuple[int, int]]:
    """1 % changed, 0.5 % inserted, 0.5 % removed; all within one run of `share` of the rows."""
    make = random.Random(seed)
    count = len(rows)
    width = max(4, int(count * share))
    start = make.randrange(count - width + 1)
    at = make.sample(range(start, start + width), count // 50)
    one, half = count // 100, count // 200
    is_changed, is_removed, is_grown = (
        set(at[:one]), set(at[one : one + half]), set(at[one + half :])
    )  # fmt: skip
    edited_rows: list[tuple[int, int]] = []
    for position, (number, version) in enumerate(rows):
        if position in is_grown:
            edited_rows.append((10**9 * seed + number, 0))
        if position in is_removed:
            continue
        edited_rows.append((number, seed) if position in is_changed else (number, version))
    return edited_rows


def new_inputs(before: set[bytes], rows: Path) -> int:
    """How many chunks of these rows were in no night before; they are added to `before`."""
    from pipeline.source.formats.jsonl import lines

    cut = chunkers.chunker("structure")
    new_texts = 0
    with rows.open("rb") as stream:
        for line in lines(stream, 1 << 30):
            content = json.loads(line.raw or b"{}")["text"]
            name = hashlib.sha256(content.encode()).digest()[:8]
            if name in before:
                continue
            before.add(name)
            for chunk in cut(content, size=512, overlap=0, tokenizer="o200k_base"):
                piece = content[chunk.start_char : chunk.end_char].encode()
                digest = hashlib.sha256(piece).digest()[:8]
                new_texts += digest not in before
                before.add(digest)
    return new_texts


# --- one night, in its own process ---------------------------------------------------------------


def night() -> None:
    """`textmill` with a clock around what it does to every row."""
    spent = dict.fromkeys(("read", "hash", "copy", "write"), 0.0)

    def clocked(owner: Any, name: str, stage: str) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def measured(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = real(*given, **named)
            spent[stage] += time.perf_counter() - started
            return measured_steps(result) if hasattr(result, "__next__") else result

        def measured_steps(steps: Any) -> Any:
            while True:
                started = time.perf_counter()
                step = next(steps, None)
                spent[stage] += time.perf_counter() - started
                if step is None:
                    return
                yield step

        setattr(owner, name, measured)

    from jobs.__main__ import main as command
    from pipeline.parts import index, reuse
    from pipeline.parts import part_file as parts
    from pipeline.parts import writer as partswriter
    from pipeline.sink import commit as publish
    from pipeline.source import documents as source
    from pipeline.source import scan as survey

    clocked(survey, "blocks", "read")
    clocked(source, "blocks", "read")
    clocked(survey, "used_by", "hash")
    clocked(reuse, "recipe", "hash")
    clocked(publish, "sha256_of", "hash")
    clocked(index, "sha256_of", "hash")
    clocked(parts.PartRows, "tables", "copy")
    clocked(parts.PartFile, "write", "write")
    clocked(parts.PartFile, "seal", "write")
    clocked(partswriter, "write_index", "write")
    try:
        command()
    finally:
        rounded = {stage: round(seconds, 2) for stage, seconds in spent.items()}
        Path(os.environ["NIGHTLY_STAGES"]).write_text(json.dumps(rounded))


def run(folder: Path, rows: Path, url: str) -> dict[str, Any]:
    """One night: what it took, and where its time went."""
    command = [
        sys.executable, __file__, "run", "embed", "-i", str(rows), "--id", "id",
        "-o", f"{folder}/out", "--kind", "openai", "--url", f"{url}/v1", "--model", "m",
        "--concurrency", "32", "--batch-size", "32", "--size", "512", "--overlap", "0", "--json",
    ]  # fmt: skip
    env = {
        "PYTHONPATH": str(ROOT),
        "TEXTMILL_HOME": f"{folder}/home",
        "NIGHTLY_STAGES": f"{folder}/stages.json",
    }
    os.sync()  # the night before is not this one's to write
    measured = peer(command, env)
    ended = json.loads(measured.pop("out").strip().splitlines()[-1])
    return measured | {
        "ended": ended,
        "stages": json.loads(Path(folder, "stages.json").read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="2,000 rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    count = 2_000 if options.quick else options.rows
    with tempfile.TemporaryDirectory() as place, serving() as url:
        folder = Path(place)
        path, known = folder / "rows.jsonl", set[bytes]()
        first = [(number, 0) for number in range(count)]
        spread = edited(first, 1.0, 1)
        nights = [
            ("first run", first, None),
            ("nothing changed", first, 0.03),
            ("2 % at random", spread, 0.10),
            ("2 % in 5 % of the rows", edited(spread, 0.05, 2), 0.05),
        ]
        table: list[dict[str, Any]] = []
        for name, rows, most in nights:
            write(path, rows)
            need = new_inputs(known, path)
            before = inputs(url)
            measured = run(folder, path, url)
            whole = table[0]["wall_seconds"] if table else measured["wall_seconds"]
            ended = measured["ended"]
            table.append(
                {
                    "night": name,
                    "wall_seconds": measured["wall_seconds"],
                    "of first": f"{measured['wall_seconds'] / whole:.1%}",
                    "goal": f"{most:.0%}" if most else "",
                    "cpu_seconds": measured["cpu_seconds"],
                    "rss_mb": measured["rss_mb"],
                    "calls": ended["calls"],
                    "sent": inputs(url) - before,
                    "new inputs": need,
                    **{key: ended[key] for key in ("added", "changed", "removed", "unchanged")},
                    **measured["stages"],
                }
            )
    report(table, machine("textmill", "pyarrow", "numpy", "msgspec"), as_json=options.json)


def inputs(url: str) -> int:
    with urllib.request.urlopen(f"{url}/_mock/bill") as reply:
        return int(json.load(reply)["inputs"])


@contextmanager
def serving() -> Iterator[str]:
    """The mock in its own process: 50 ms a call."""
    command = [sys.executable, "-m", "jobs", "mock", "--port", "0", "--latency", "0.05"]
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stderr is not None
        yield server.stderr.readline().split()[-1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


if __name__ == "__main__":
    night() if sys.argv[1:2] == ["run"] else main()
