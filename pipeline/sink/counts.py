"""The counts of an output, and the refusal of one without results."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import GuardError, TooManyFailed
from pipeline.parts.layout import OutputLayout
from pipeline.parts.part_rows import row_count
from pipeline.text import many, shown


class Counts(NamedTuple):
    """Documents by status, and rows written."""

    ok: int = 0
    partial: int = 0
    failed: int = 0
    rows: int = 0


def refuse_empty_output(
    layout: OutputLayout, counts: Counts, rows: int, *, commonest_failure: str, failures: str
) -> None:
    """Refuses an output without results. `rows` is the size of the input, `failures` the file of
    its failures.

    Raises: TooManyFailed where the input has rows and none is ok or partial; GuardError where an
    output with rows would be replaced by one without any.
    """
    path = shown(str(layout.path))
    if rows and counts.ok + counts.partial == 0:
        raise TooManyFailed(
            f"{path}: no row is ok, {counts.failed:,} of {many(rows, 'row')} failed: nothing was "
            f"published; most often: {commonest_failure}",
            hint=f"see {failures}; answers so far are kept",
        )
    if not counts.rows and any(map(row_count, layout.published())):
        cause = "no row has a result" if rows else "the input is empty"
        raise GuardError(
            f"{path}: {cause}, and the output so far has rows",
            hint="it is unchanged; remove it to publish without them",
        )
