"""Ids that are the same values in another type: 17 became "17", and every row looks removed."""

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
from pipeline.source.identity import of_id
from pipeline.source.survey import Survey
from pipeline.source.types.values import python_values

_SAMPLE = 20


@contextmanager
def retyped_ids_named(layout: OutputLayout, survey: Survey) -> Iterator[None]:
    """Adds to a GuardError that only the type of the ids changed, where that is so."""
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
