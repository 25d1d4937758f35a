"""The command line flags that set a key of the job file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FLAGS = {
    "input": "input.path",
    "output": "output.path",
    "text": "input.text",
    "id": "input.id",
    "keep": "input.keep",
    "method": "chunk.method",
    "size": "chunk.size",
    "overlap": "chunk.overlap",
    "tokenizer": "chunk.tokenizer",
    "prompt": "parameters.prompt",
    "kind": "endpoint.kind",
    "model": "endpoint.model",
    "url": "endpoint.url",
    "concurrency": "endpoint.concurrency",
    "batch_size": "endpoint.batch_size",
    "aggregate": "aggregate.method",
    "max_cost_usd": "budget.max_cost_usd",
    "partial": "budget.partial",
    "max_failed": "guard.max_failed",
    "max_removed": "guard.max_removed",
    "max_outage": "run.max_outage_seconds",
    "grace": "run.grace_seconds",
    "until": "run.until",
    "salvage": "run.salvage",
}
"""Flags that stand for a key of the job file; all others are reached with --set."""


def command_line(source: str, overrides: Iterable[str], flags: Mapping[str, object]) -> list[str]:
    """The words of the command that does this job again."""
    from jobs.spec.flags import FLAGS

    names = {key: "--" + flag.replace("_", "-") for flag, key in FLAGS.items()}
    names |= {"input.path": "-i", "output.path": "-o"}
    words = ["textmill", "run", source]
    for key, value in flags.items():
        if value is True:
            words.append(names[key])
        else:
            each = value if isinstance(value, (list, tuple)) else [value]
            words += [word for one in each for word in (names[key], _word(one))]
    return words + [word for each in overrides for word in ("--set", each)]


def _word(value: object) -> str:
    """As somebody would type it: 1, not 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def flag(key: str) -> str:
    """How the command line calls a key."""
    short = {"input.path": "-i", "output.path": "-o"}
    last = key.rpartition(".")[2].replace("_", "-").removesuffix("-seconds")
    return short.get(key, f"--{last}")
