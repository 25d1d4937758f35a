"""Aggregators: from a document's outcomes to its rows."""

from __future__ import annotations

from collections.abc import Callable

from aggregators import text, vectors
from pipeline.records import Aggregator, Column

AGGREGATORS: dict[str, Callable[[Column], Aggregator]] = {
    "rows": vectors.Rows,
    "mean": vectors.Mean,
    "text": text.Text,
}
REVISIONS = {"rows": vectors.REVISION, "mean": vectors.REVISION, "text": text.REVISION}
"""Part of the job fingerprint; incremented when the same answers give another result."""
