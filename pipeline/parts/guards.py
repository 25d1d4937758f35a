"""Guards: what is refused because the new output would lose rows or vectors of the last one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import GuardError
from pipeline.parts.layout import OutputLayout
from pipeline.parts.reuse import Reuse
from pipeline.source.identity import of_id
from pipeline.source.survey import Survey
from pipeline.source.types.values import python_values
from pipeline.text import shown

MIN_REMOVED_ROWS = 20
"""`guard.max_removed` never refuses fewer rows than this: five removed rows of eight prove
nothing."""
_SAMPLE = 20
"""Ids of the last output that are looked up in another type."""


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


@contextmanager
def retyped_ids_named(layout: OutputLayout, survey: Survey) -> Iterator[None]:
    """Adds to a GuardError that only the type of the ids changed, where that is so: 17 became "17",
    and every row looks removed."""
    try:
        yield
    except GuardError as error:
        if (change := _change_of_type(layout, survey)) is None:
            raise
        raise GuardError(
            f"{error}; only their type changed: the ids {change}",
            hint="write them as before; or, if the change is meant: --max-removed 1",
        ) from None


def _change_of_type(layout: OutputLayout, survey: Survey) -> str | None:
    if survey.spec.id is None:
        return None
    before: list[Any] = []
    with suppress(OSError, pa.ArrowException, msgspec.DecodeError, IndexError, KeyError):
        before = [value for value in _published_ids(layout, survey.spec.id) if value is not None]
    if not before:
        return None
    now = [_in_another_type(value) for value in before]
    wanted = {of_id(value) for value in now if value is not None}
    if len(wanted) < len(set(map(repr, before))) or not _all_present(wanted, survey):
        return None
    return f"were {_noun(before[0])}s and are {_noun(now[0])}s now"


def _published_ids(layout: OutputLayout, name: str) -> list[Any]:
    """The ids of the first rows of the current output."""
    first = layout.published()[0]
    if layout.part_suffix == ".jsonl":
        with first.open("rb") as lines:
            return [msgspec.json.decode(line)[name] for line in islice(lines, _SAMPLE)]
    with pq.ParquetFile(first) as file:
        return python_values(next(file.iter_batches(_SAMPLE, columns=[name])).column(0))


def _in_another_type(value: Any) -> Any:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() else str(value)
    for kind in (int, float):
        with suppress(ValueError, TypeError):
            return kind(value)
    return None


def _all_present(wanted: set[bytes], survey: Survey) -> bool:
    left = set(wanted)
    for rows in survey.rows_by_part():
        left.difference_update(rows["hash"].tolist())
        if not left:
            return True
    return False


def _noun(value: Any) -> str:
    return "string" if isinstance(value, str) else "number"
