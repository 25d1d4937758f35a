"""Texts and peers for the chunking benchmarks: one set of options for every chunker and script.

Every chunker runs in a process of its own (`run_alone`), with the interpreter given by `--python`,
so that peers may live in an environment of their own (the extra `bench`).
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIZE = 512
OVERLAPS = (0, 64)
ENCODING = "o200k_base"
CHARS = 600_000

Span = tuple[int, int, str]
"""Start, end (-1, -1 where the chunker gives none), and the chunk's text."""
Cutter = Callable[[str, int, int], list[Span]]


def encoding() -> Any:
    """The tiktoken encoding that every chunker counts with, built from the package's table."""
    from chunkers.tokens.tokenizers import tokenizer

    return tokenizer(ENCODING)._encoding  # type: ignore[attr-defined]


# --- texts ------------------------------------------------------------------------------------


def texts(folder: Path) -> dict[str, str]:
    """Name -> text; what is not there is left out."""
    texts = {
        "english": _read(folder.glob("*.md")),
        "chinese": _samples("zh"),
        "markdown": _samples("markdown"),
        "code": _read([*ROOT.glob("chunkers/*.py"), *ROOT.glob("pipeline/**/*.py")]),
        "wrapped": _wrapped(_read(folder.glob("state*.md"))),
    }
    texts = {name: text * max(1, CHARS // len(text)) for name, text in texts.items() if text}
    return texts | {
        "no blank": "abcdefghij" * 500_000,
        "one letter": "a" * 1_000_000,
        "emoji and marks": "👨‍👩‍👧❤️🇩🇪e\u0301\u0302👍🏽" * 60_000,
    }


ADVERSARIAL = ("no blank", "one letter", "emoji and marks")


def _read(paths: Any) -> str:
    return "\n".join(path.read_text("utf-8") for path in sorted(paths))


def _samples(kind: str) -> str:
    parts = []
    for path in sorted(ROOT.glob("sample_data/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            if kind in (row.get("language"), row.get("kind")) and isinstance(row["text"], str):
                parts.append(row["text"])
    return "\n".join(parts)


def _wrapped(text: str) -> str:
    return "\n\n".join(
        textwrap.fill(" ".join(paragraphs), 72)
        for start in range(0, len(text.split("\n\n")), 12)
        if (paragraphs := text.split("\n\n")[start : start + 12])
    )


# --- chunkers ---------------------------------------------------------------------------------


def _textmill(method: str) -> Cutter:
    def cut(text: str, size: int, overlap: int) -> list[Span]:
        from chunkers import CHUNKERS

        chunks = CHUNKERS[method](text, size=size, overlap=overlap, tokenizer=ENCODING)
        return [(c.start_char, c.end_char, text[c.start_char : c.end_char]) for c in chunks]

    return cut


def _semchunk(text: str, size: int, overlap: int) -> list[Span]:
    import semchunk

    cut = semchunk.chunkerify(encoding(), size)
    chunks, offsets = cut(text, offsets=True, overlap=overlap or None)
    return [(a, b, chunk) for chunk, (a, b) in zip(chunks, offsets, strict=True)]


def _semantic_text_splitter(text: str, size: int, overlap: int) -> list[Span]:
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_tiktoken_model("gpt-4o", size, overlap=overlap)
    return [(at, at + len(chunk), chunk) for at, chunk in splitter.chunk_indices(text)]


def _langchain(text: str, size: int, overlap: int) -> list[Span]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    encode = encoding().encode_ordinary
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=size,
        chunk_overlap=overlap,
        length_function=lambda piece: len(encode(piece)),
        add_start_index=True,
    )
    spans = []
    for chunk in splitter.create_documents([text]):
        at = chunk.metadata["start_index"]
        spans.append((at, at + len(chunk.page_content), chunk.page_content))
    return spans


def _llama_index(text: str, size: int, overlap: int) -> list[Span]:
    from llama_index.core.node_parser import SentenceSplitter

    splitter = SentenceSplitter(
        chunk_size=size, chunk_overlap=overlap, tokenizer=encoding().encode_ordinary
    )
    return [(-1, -1, chunk) for chunk in splitter.split_text(text)]


def _chonkie(text: str, size: int, overlap: int) -> list[Span]:
    if overlap:
        from chonkie import SentenceChunker

        chunker: Any = SentenceChunker(tokenizer=encoding(), chunk_size=size, chunk_overlap=overlap)
    else:
        from chonkie import RecursiveChunker

        chunker = RecursiveChunker(tokenizer=encoding(), chunk_size=size)
    return [(c.start_index, c.end_index, c.text) for c in chunker(text)]


CUTTERS: dict[str, tuple[str, Cutter]] = {
    "structure": ("", _textmill("structure")),
    "markdown": ("", _textmill("markdown")),
    "fixed": ("", _textmill("fixed")),
    "semchunk": ("semchunk", _semchunk),
    "semantic-text-splitter": ("semantic-text-splitter", _semantic_text_splitter),
    "langchain recursive": ("langchain-text-splitters", _langchain),
    "llama-index sentence": ("llama-index-core", _llama_index),
    "chonkie": ("chonkie", _chonkie),
}
"""Name -> the distribution that it comes from, and how to call it."""


# --- running ----------------------------------------------------------------------------------


def arguments(question: str) -> argparse.Namespace:
    """The options that all chunking benchmarks share."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("folder", type=Path, help="texts and questions, docs/chunking-tables.md")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--only", default="", help="names of chunkers, with commas")
    parser.add_argument("--text", default="", help="names of texts, with commas")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one run")
    parser.add_argument("--short", action="store_true", help="of chunk_speed: short texts instead")
    parser.add_argument("--alone", nargs=3, metavar=("CHUNKER", "TEXT", "OVERLAP"))
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"{options.folder}: the folder with the texts is missing", file=sys.stderr)
        sys.exit(2)
    return options


def run_all(
    options: argparse.Namespace, script: str, measure: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
    """One result for each chunker, text and overlap, each measured in a process of its own."""
    if options.alone:
        name, which, overlap = options.alone
        text = texts(options.folder)[which]
        print(json.dumps(measure(CUTTERS[name][1], text, which, int(overlap))))
        sys.exit(0)
    chosen = [name for name in CUTTERS if not options.only or name in options.only.split(",")]
    wanted = [
        name
        for name in texts(options.folder)
        if not options.text or name in options.text.split(",")
    ]
    results = []
    for name in chosen:
        version = _version(options.python, CUTTERS[name][0])
        if not version:
            print(f"{name}: skipped, {CUTTERS[name][0]} is not installed", file=sys.stderr)
            continue
        for which in wanted:
            for overlap in OVERLAPS:
                outcome = _run_alone(options, script, name, which, overlap)
                row = {"chunker": name, "version": version, "text": which, "overlap": overlap}
                results.append(row | outcome)
                print(f"{name}, {which}, {overlap}: {outcome}", file=sys.stderr)
    return results


def _run_alone(
    options: argparse.Namespace, script: str, name: str, which: str, overlap: int
) -> dict[str, Any]:
    command = [options.python, script, str(options.folder), "--alone", name, which, str(overlap)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {options.timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["failed"])[-1][:120]}
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


@functools.cache
def _version(python: str, distribution: str) -> str:
    if not distribution:
        try:
            return importlib.metadata.version("textmill")
        except importlib.metadata.PackageNotFoundError:
            return "source"
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def show(columns: list[str], rows: list[list[str]]) -> None:
    """A plain table on stdout."""
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    for row in [columns, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
