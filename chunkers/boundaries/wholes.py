"""Units that fit into a chunk of their own: no cut splits them."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.levels import FREE, PAGE

_FAR = 1 << 60


class Ends(NamedTuple):
    """Boundaries with their token counts, as columns."""

    level: NDArray[np.uint8]
    before_end: NDArray[np.int64]
    """Tokens that end at or before each place."""
    before_start: NDArray[np.int64]
    """Tokens that begin before each place."""

    def since(self, first: int) -> Ends:
        """The boundaries from this one on."""
        return Ends(self.level[first:], self.before_end[first:], self.before_start[first:])

    def then(self, other: Ends) -> Ends:
        """These boundaries and the others."""
        return Ends(
            np.concatenate((self.level, other.level)),
            np.concatenate((self.before_end, other.before_end)),
            np.concatenate((self.before_start, other.before_start)),
        )


NONE = Ends(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def unit_tokens(ends: Ends, read: int, *, from_start: bool, complete: bool) -> NDArray[np.int64]:
    """For each boundary the tokens of the smallest unit that a cut here splits.

    That unit reaches to the next stronger boundaries on both sides; from `FREE` on to the next
    pages. A value is negative where the unit goes on after the `read` tokens: it has at least that
    many (its absolute value). `from_start`: the first boundary is the first of the text.

    Invariant: a place that is decided stays so, whatever follows in the text.
    """
    level = ends.level
    tokens = np.full(len(level), _FAR, np.int64)
    for strength in np.unique(level).tolist():
        mine = np.flatnonzero(level == strength)
        is_free = strength >= FREE
        stronger = np.flatnonzero(level == PAGE if is_free else level > strength)
        place = stronger.searchsorted(mine)
        begins = np.concatenate(([0 if from_start else -_FAR], ends.before_end.take(stronger)))
        stops = np.append(ends.before_start.take(stronger), -1)
        begin, stop = begins.take(place), stops.take(place)
        size = np.where(stop < 0, begin - read, stop - begin)
        if strength == PAGE:
            size[:] = _FAR
        elif complete:
            # The text ends a unit, but a text without a form feed is no page.
            size = np.abs(size)
            if is_free:
                size[(stop < 0) & (place == 0)] = _FAR
        tokens[mine] = size
    return tokens


def unit_tokens_short(level: bytes, before_end: list[int], before_start: list[int]) -> list[int]:
    """The same as `unit_tokens` of a whole text, without arrays."""
    tokens = [_FAR] * len(level)
    for strength in set(level):
        if strength >= PAGE:
            continue
        bound = PAGE if strength >= FREE else strength + 1
        stronger = [index for index, other in enumerate(level) if other >= bound]
        if strength >= FREE and not stronger:
            continue
        for index, other in enumerate(level):
            if other == strength:
                place = bisect_left(stronger, index)
                begin = before_end[stronger[place - 1]] if place else 0
                stop = stronger[place] if place < len(stronger) else len(level) - 1
                tokens[index] = before_start[stop] - begin
    return tokens
