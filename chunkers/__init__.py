"""Ways of cutting a long text into chunks; every one is `(text, *, size, overlap, ...)`.

Nothing heavy is imported before the first chunker is used: `textmill --help` must be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.records import Chunk

if TYPE_CHECKING:
    from chunkers.fixed import chunk_fixed
    from chunkers.markdown import chunk_markdown
    from chunkers.semantic import chunk_semantic
    from chunkers.structure import chunk_structure

__all__ = [
    "CHUNKERS",
    "GROUP",
    "REVISION",
    "chunk_fixed",
    "chunk_markdown",
    "chunk_semantic",
    "chunk_structure",
    "chunker",
    "revision",
]

_HOME = {
    "chunk_structure": "chunkers.structure",
    "chunk_fixed": "chunkers.fixed",
    "chunk_markdown": "chunkers.markdown",
    "chunk_semantic": "chunkers.semantic",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'chunkers' has no attribute {name!r}")


def _structure(text: str, **options: Any) -> Iterator[Chunk]:
    from chunkers.structure import chunk_structure

    return chunk_structure(text, **options)


def _fixed(text: str, **options: Any) -> Iterator[Chunk]:
    from chunkers.fixed import chunk_fixed

    return chunk_fixed(text, **options)


def _markdown(text: str, **options: Any) -> Iterator[Chunk]:
    from chunkers.markdown import chunk_markdown

    return chunk_markdown(text, **options)


def _semantic(text: str, **options: Any) -> Iterator[Chunk]:
    from chunkers.semantic import chunk_semantic

    return chunk_semantic(text, **options)


CHUNKERS: dict[str, Callable[..., Iterator[Chunk]]] = {
    "structure": _structure,
    "fixed": _fixed,
    "markdown": _markdown,
    "semantic": _semantic,
}
"""By the name that `chunk.method` has in a job file."""

REVISION = {"structure": 1, "fixed": 1, "markdown": 1, "semantic": 1}
"""Raised when the same text is cut differently than before: part of a job's fingerprint."""

GROUP = "textmill.chunkers"
"""Entry points of this group are ways of cutting of other packages, named in a job file as ours."""


def chunker(name: str) -> Callable[..., Iterator[Chunk]]:
    """The way of cutting of this name, ours or that of an installed package.

    Raises: UsageError where it is unknown or its package cannot be imported.
    """
    if name in CHUNKERS:
        return CHUNKERS[name]
    for point in entry_points(group=GROUP, name=name):
        try:
            return _checked(name, point.load())
        except (Exception, SystemExit) as error:  # whatever the other package raises
            raise UsageError(f"chunker `{name}` cannot be loaded: {error}") from None
    raise UsageError(f"no chunker `{name}`", hint=", ".join(CHUNKERS))


def _checked(name: str, cut: Callable[..., Iterator[Chunk]]) -> Callable[..., Iterator[Chunk]]:
    """The same, held to what every chunker promises: a wrong span would be a wrong answer."""

    def chunks(text: str, **options: Any) -> Iterator[Chunk]:
        try:
            for chunk in cut(text, **options):
                spans = isinstance(chunk, Chunk) and 0 <= chunk.start_char < chunk.end_char
                if not spans or chunk.end_char > len(text) or chunk.tokens < 1:
                    raise ValueError(f"{chunk!r} is no chunk of {len(text):,} characters")
                yield chunk
        except (Exception, SystemExit) as error:
            raise UsageError(f"chunker `{name}`: {error or type(error).__name__}") from None

    return chunks


def revision(name: str) -> int | str:
    """What a fingerprint holds for this way of cutting: of another package, its version."""
    if name in REVISION:
        return REVISION[name]
    points = entry_points(group=GROUP, name=name)
    return next((p.dist.version for p in points if p.dist is not None), "")
