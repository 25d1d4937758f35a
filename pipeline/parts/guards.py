"""Guards: what is refused because the new output would lose rows or vectors of the last one."""

from __future__ import annotations

from pipeline.errors import GuardError
from pipeline.parts.reuse import Reuse
from pipeline.text import shown

MIN_REMOVED_ROWS = 20
"""`guard.max_removed` never refuses fewer rows than this: five removed rows of eight prove
nothing."""


def check_removed(reuse: Reuse, max_removed: float, output: str) -> None:
    """Raises: GuardError if more rows of the last commit are gone than allowed.

    Half an input is no reason to delete the other half. In a small table a few rows are a large
    share, so up to 20 rows may always be removed. Without ids, a changed row counts as removed and
    as added, so there the number of rows decides.
    """
    accounting = reuse.accounting
    before = sum(reuse.part_rows) - accounting.added + accounting.removed
    max_rows = max(MIN_REMOVED_ROWS, int(max_removed * before))
    gone = accounting.removed
    if not reuse.has_ids:
        gone -= accounting.added
    if gone > max_rows:
        raise GuardError(
            f"{shown(output)}: {gone:,} of the {before:,} rows of the last "
            f"commit are no longer in the input, more than guard.max_removed allows ({max_rows:,})",
            hint="if they should be removed: --max-removed 1",
        )


def check_dimension(reuse: Reuse, dimension: int | None, output: str) -> None:
    """Raises: GuardError if vectors have another dimension than those of the published output,
    which does not name its model."""
    published = reuse.published
    if published is None or published.made_by or not (dimension and published.dimension):
        return
    if dimension != published.dimension:
        raise GuardError(
            f"{shown(output)}: vectors of {dimension} numbers, those of the last commit have "
            f"{published.dimension}: another model, or other parameters of it",
            hint="if the model was changed: --accept-unknown",
        )
