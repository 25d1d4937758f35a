"""Ways of cutting a long text into chunks; every one is `(text, *, size, overlap, ...)`.

A way of cutting is imported when it is first used: `textmill --help` must be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from msgspec import Struct

from pipeline.errors import UsageError
from pipeline.records import Chunk


class Method(Struct, frozen=True):
    """A way of cutting of this package, by the place of its function."""

    function: str
    """`module:name`, relative to this package, whatever that is called where it is installed."""
    revision: int
    """Raised when the same text is cut differently than before: part of a job's fingerprint."""

    def __call__(self, text: str, **options: Any) -> Iterator[Chunk]:
        """The chunks of a text."""
        module, _, name = self.function.partition(":")
        found: Iterator[Chunk] = getattr(import_module(f"{__name__}.{module}"), name)(
            text, **options
        )
        return found


CHUNKERS = {
    "structure": Method("structure:chunk_structure", revision=1),
    "fixed": Method("fixed:chunk_fixed", revision=1),
    "markdown": Method("markdown:chunk_markdown", revision=1),
    "semantic": Method("semantic:chunk_semantic", revision=1),
}
"""By the name that `chunk.method` has in a job file."""

GROUP = "textmill.chunkers"
"""Entry points of this group are ways of cutting of other packages, named in a job file as ours."""


def chunker(name: str) -> Callable[..., Iterator[Chunk]]:
    """The way of cutting of this name, ours or that of an installed package.

    Raises: UsageError where it is unknown or its package cannot be imported.
    """
    from importlib.metadata import entry_points

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
    from importlib.metadata import entry_points

    if name in CHUNKERS:
        return CHUNKERS[name].revision
    points = entry_points(group=GROUP, name=name)
    return next((p.dist.version for p in points if p.dist is not None), "")
