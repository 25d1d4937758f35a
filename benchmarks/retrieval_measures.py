"""Corpora with questions, the measures of retrieval, and the peer that no package has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from chunk_peers import ROOT
from measure import machine, peer

COLUMNS = ("recall", "precision", "iou", "omega", "recall 1000", "recall 2000")
TOP = 5
CONTEXTS = (1000, 2000)

Embed = Callable[[Sequence[str]], Any]


class Corpora(NamedTuple):
    """Texts, and questions that their spans answer."""

    texts: list[str]
    questions: list[str]
    owners: list[int]
    """Per question: which text answers it."""
    answers: list[list[tuple[int, int]]]
    """Disjoint, ascending. Units: code points."""


class Cuts(NamedTuple):
    """The chunks of all texts as columns."""

    text: Any
    start: Any
    end: Any
    tokens: Any


SHORT_CHARS = 200_000


def load(folder: Path, *, quick: bool = False) -> Corpora:
    """The corpora of a folder: files beside `questions.jsonl`, or rows of `reports.jsonl`.

    `quick` leaves out texts that are not short, and the questions about them.
    """
    rows = [json.loads(line) for line in _read(folder / "questions.jsonl").splitlines()]
    if (folder / "reports.jsonl").is_file():
        reports = map(json.loads, _read(folder / "reports.jsonl").splitlines())
        texts = {row["id"]: row["text"] for row in reports}
        for row in rows:
            start = texts[row["id"]].index(row["answer"])
            row["corpus"] = row["id"]
            row["references"] = [{"start": start, "end": start + len(row["answer"])}]
    else:
        names = sorted({row["corpus"] for row in rows})
        texts = {name: _read(folder / f"{name}.md") for name in names}
    if quick:
        texts = {name: text for name, text in texts.items() if len(text) <= SHORT_CHARS}
    rows = [row for row in rows if row["corpus"] in texts]
    numbers = {name: number for number, name in enumerate(texts)}
    return Corpora(
        list(texts.values()),
        [row["question"] for row in rows],
        [numbers[row["corpus"]] for row in rows],
        [_union([(part["start"], part["end"]) for part in row["references"]]) for row in rows],
    )


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")  # every CR counts as a character


def scores(corpora: Corpora, cuts: Cuts, questions: Any, embed: Embed) -> dict[str, Any]:
    """Per measure one figure for each question."""
    near = questions @ _vectors(corpora, cuts, embed).T
    measures: dict[str, list[float]] = {column: [] for column in COLUMNS}
    for number, (owner, answers) in enumerate(zip(corpora.owners, corpora.answers, strict=True)):
        order = np.argsort(-near[number], kind="stable")
        recall, precision, iou = _measures(cuts, order[:TOP], owner, answers)
        measures["recall"].append(recall)
        measures["precision"].append(precision)
        measures["iou"].append(iou)
        touching = np.zeros(len(cuts.text), bool)
        for start, end in answers:
            touching |= (cuts.text == owner) & (cuts.start < end) & (cuts.end > start)
        measures["omega"].append(_measures(cuts, np.flatnonzero(touching), owner, answers)[2])
        filled = np.cumsum(cuts.tokens[order])
        for context in CONTEXTS:
            fitting = order[: int(np.searchsorted(filled, context, "right"))]
            measures[f"recall {context}"].append(_measures(cuts, fitting, owner, answers)[0])
    return {column: np.array(figures) for column, figures in measures.items()}


def _measures(
    cuts: Cuts, chunks: Any, owner: int, answers: list[tuple[int, int]]
) -> tuple[float, float, float]:
    """Recall, precision and IoU of these chunks. Units: characters, each counted once."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for chunk in chunks.tolist():
        span = (int(cuts.start[chunk]), int(cuts.end[chunk]))
        spans.setdefault(int(cuts.text[chunk]), []).append(span)
    merged = {text: _union(parts) for text, parts in spans.items()}
    retrieved = sum(end - start for parts in merged.values() for start, end in parts)
    answer_chars = sum(end - start for start, end in answers)
    hit = sum(
        max(0, min(end, stop) - max(start, begin))
        for start, end in merged.get(owner, ())
        for begin, stop in answers
    )
    return hit / answer_chars, hit / max(retrieved, 1), hit / (retrieved + answer_chars - hit)


def _union(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _vectors(corpora: Corpora, cuts: Cuts, embed: Embed) -> Any:
    rows = zip(cuts.text.tolist(), cuts.start.tolist(), cuts.end.tolist(), strict=True)
    # A chunk of blanks has no vector; "." matches no question.
    vectors = embed([corpora.texts[text][start:end].strip() or "." for text, start, end in rows])
    return np.nan_to_num(vectors)


PIECE_TOKENS = 50


def cluster_semantic(text: str, size: int, embed: Embed) -> list[tuple[int, int]]:
    """The cluster-semantic idea: the runs of pieces with the highest similarity inside.

    The similarity of two pieces counts as far as it is above the mean one; a run has at most `size`
    tokens. Source: Chroma's report "Evaluating chunking strategies", 2024; written anew.
    """
    from chunkers.structure import chunk_structure

    # Pieces of 50 tokens, as the report has them, cut at sentences as fairly as can be.
    pieces = list(chunk_structure(text, size=PIECE_TOKENS, tokenizer="o200k_base"))
    if not pieces:
        return []
    vectors = np.nan_to_num(
        embed([text[piece.start_char : piece.end_char].strip() or "." for piece in pieces])
    )
    total = vectors.sum(axis=0)
    amount = len(pieces)
    mean = (float(total @ total) - amount) / max(1, amount * (amount - 1))
    best = [0.0] + [-np.inf] * amount
    begin = [0] * (amount + 1)
    for end in range(1, amount + 1):
        tokens, inside = 0, 0.0
        for start in range(end - 1, -1, -1):
            tokens += pieces[start].tokens
            if tokens > size and start < end - 1:
                break
            if start < end - 1:
                inside += float((vectors[start + 1 : end] @ vectors[start] - mean).sum())
            if best[start] + inside > best[end]:
                best[end], begin[end] = best[start] + inside, start
    spans = []
    end = amount
    while end:
        spans.append((pieces[begin[end]].start_char, pieces[end - 1].end_char))
        end = begin[end]
    return spans[::-1]


def versions(python: str, distributions: list[str]) -> dict[str, str]:
    """The versions of the peers in the environment that has them."""
    if python == sys.executable:
        return {name: machine(name)[name] for name in distributions}
    code = (
        f"import json, sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import measure; "
        f"print(json.dumps(measure.machine(*{distributions!r})))"
    )
    installed = json.loads(peer([python, "-c", code])["out"])
    return {name: installed[name] for name in distributions}
