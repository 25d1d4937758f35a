"""Chunkers: functions `(text, *, size, overlap, ...)` that cut a long text into chunks.

A chunker is imported when it is first used, since `textmill --help` must be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from msgspec import Struct

from pipeline.errors import UsageError
from pipeline.records import Chunk


class Method(Struct, frozen=True):
    """A chunker of this package, by the name of its function."""

    function: str
    """`module:name`, relative to this package, so that the package itself can be renamed."""
    revision: int
    """Incremented when the same text is cut differently than before: part of a job's
    fingerprint."""

    def __call__(self, text: str, **options: Any) -> Iterator[Chunk]:
        """The chunks of a text."""
        module, _, name = self.function.partition(":")
        chunks: Iterator[Chunk] = getattr(import_module(f"{__name__}.{module}"), name)(
            text, **options
        )
        return chunks


CHUNKERS = {
    "structure": Method("structure:chunk_structure", revision=2),
    "fixed": Method("fixed:chunk_fixed", revision=2),
    "markdown": Method("markdown:chunk_markdown", revision=2),
    "semantic": Method("semantic:chunk_semantic", revision=2),
}
"""The chunkers of this package, by the value of `chunk.method` in a job file."""

GROUP = "textmill.chunkers"
"""The entry-point group for chunkers of other packages; a job file names them like ours."""


def chunker(name: str) -> Callable[..., Iterator[Chunk]]:
    """The chunker of this name, from this package or an installed one.

    Raises: UsageError where it is unknown or its package cannot be imported.
    """
    from importlib.metadata import entry_points

    if name in CHUNKERS:
        return CHUNKERS[name]
    for point in entry_points(group=GROUP, name=name):
        try:
            return _with_checked_spans(name, point.load())
        except (Exception, SystemExit) as error:  # whatever the other package raises
            raise UsageError(f"chunker `{name}` cannot be loaded: {error}") from None
    raise UsageError(f"no chunker `{name}`", hint=", ".join(CHUNKERS))


def _with_checked_spans(
    name: str, cut: Callable[..., Iterator[Chunk]]
) -> Callable[..., Iterator[Chunk]]:
    """The chunker, with each chunk checked: a wrong span would cause a wrong answer."""

    def chunks(text: str, **options: Any) -> Iterator[Chunk]:
        try:
            for chunk in cut(text, **options):
                is_span = isinstance(chunk, Chunk) and 0 <= chunk.start_char < chunk.end_char
                if not is_span or chunk.end_char > len(text) or chunk.tokens < 1:
                    raise ValueError(
                        f"{chunk!r} is not a chunk of a text of {len(text):,} characters"
                    )
                yield chunk
        except (Exception, SystemExit) as error:
            raise UsageError(f"chunker `{name}`: {error or type(error).__name__}") from None

    return chunks


def revision(name: str) -> int | str:
    """The chunker's part of a fingerprint: its revision, or the version of its package."""
    from importlib.metadata import entry_points

    if name in CHUNKERS:
        return CHUNKERS[name].revision
    points = entry_points(group=GROUP, name=name)
    return next((p.dist.version for p in points if p.dist is not None), "")
