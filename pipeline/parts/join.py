"""Joins the rows of the input with those of finished parts, in buckets on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.disk.spill import PACKED_ROWS, Records, Spill
from pipeline.parts.index import ISOLATED, OUTCOMES, REUSABLE, PartIndex

_MATCH = np.dtype([("row", "<u8"), ("part", "<i4"), ("entry", "<u4")])
_NEW = np.dtype([("key", "S24"), ("used", "S16"), ("row", "<u8")])
_OLD = np.dtype([("key", "S24"), ("used", "S16"), ("part", "<i4"), ("entry", "<u4"), ("how", "u1")])
_PUBLISHED, _USABLE = 1, 2
"""Flags in `how`: the row is in the published output; its output may be copied. The outcome is in
the two bits above."""
_UNKNOWN = 16
"""Flag in `how`: only the identity of the row is known, from the published output itself."""
_FINAL = ISOLATED << 2
"""Flag in `how`: the row failed and is not retried."""


class Accounting(Struct, frozen=True):
    """Compares the rows of the input with those of the last commit.

    Invariant: added + changed + unchanged + retried = rows of the input; removed rows are in the
    last commit and no longer in the input.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    retried: int = 0
    """Unchanged, but failed or partial in the last run: they are retried. A row that is at fault
    itself counts as unchanged."""


class Join:
    """Joins rows of the input with rows of parts, in buckets that fit in memory."""

    def __init__(self) -> None:
        self._new = Spill(_NEW)
        self._old = Spill(_OLD)

    def add_new(self, rows: Records, start: int) -> None:
        records = np.empty(len(rows), _NEW)
        records["key"], records["used"] = _keys(rows), _used(rows)
        records["row"] = np.arange(start, start + len(rows))
        self._new.add(_buckets(rows), records)

    def add_old(self, part: PartIndex, at: int, *, is_published: bool, is_usable: bool) -> None:
        entries = part.entries()
        if entries is None:
            return
        records = np.empty(len(entries), _OLD)
        records["key"], records["used"] = _keys(entries), _used(entries)
        records["part"], records["entry"] = at, np.arange(len(entries))
        usable = is_usable & (entries["flags"] == REUSABLE)
        records["how"] = (
            is_published * _PUBLISHED | usable * _USABLE | (entries["flags"] & (3 | ISOLATED)) << 2
        )
        self._old.add(_buckets(entries), records)

    def add_published(self, identities: Records) -> None:
        """Adds rows of the published output by their identities; those of parts count more."""
        records = np.zeros(len(identities), _OLD)
        keys = np.zeros(len(identities), [("hash", "V16"), ("nth", "<u8")])
        keys["hash"] = identities["hash"]
        records["key"], records["part"] = keys.view("S24"), -1
        records["how"] = _PUBLISHED | _UNKNOWN
        self._old.add(_buckets(keys), records)

    def result(self, unchanged: int) -> tuple[Accounting, Spill]:
        """The accounting, including `unchanged` rows of kept parts; and, in buckets by row, the
        rows that match an entry of a part that may be copied."""
        matches = Spill(_MATCH)
        added = changed = retried = removed = 0
        for bucket in {*self._new.buckets(), *self._old.buckets()}:
            new, old = self._new.bucket(bucket), self._old.bucket(bucket)
            usable = old[(old["how"] & _USABLE) > 0]
            copied_at, is_copied = _first_matches(_pairs(usable), _pairs(new))
            published = _distinct(old[(old["how"] & _PUBLISHED) > 0])
            published_rows = len(published)
            at, hit = _first_matches(published["key"], new["key"])
            published = published[at[hit]]
            # Where only the identity is known, a row that is copied is taken for unchanged.
            is_unknown = (published["how"] & _UNKNOWN) > 0
            equal = np.where(is_unknown, is_copied[hit], published["used"] == new["used"][hit])
            is_ok = published["how"] >> 2 & 3 == OUTCOMES.index("ok")
            is_ok |= (published["how"] & _FINAL) > 0
            added += int(np.count_nonzero(~hit))
            changed += int(np.count_nonzero(~equal))
            unchanged += int(np.count_nonzero(equal & is_ok))
            retried += int(np.count_nonzero(equal & ~is_ok))
            removed += published_rows - len(published)
            records = np.empty(int(np.count_nonzero(is_copied)), _MATCH)
            records["row"] = new["row"][is_copied]
            chosen = usable[copied_at[is_copied]]
            records["part"], records["entry"] = chosen["part"], chosen["entry"]
            matches.add(records["row"] // PACKED_ROWS, records)
        return Accounting(added, changed, removed, unchanged, retried), matches


def _distinct(published: Records) -> Records:
    """The rows of the last commit, each once: from its part, else from the output."""
    is_unknown = (published["how"] & _UNKNOWN) > 0
    if not is_unknown.any():
        return published
    known, unknown = published[~is_unknown], published[is_unknown]
    unknown = unknown[np.unique(unknown["key"], return_index=True)[1]]
    return np.concatenate([known, unknown[~np.isin(unknown["key"], known["key"])]])


def _first_matches(
    available: npt.NDArray[Any], wanted: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The position in `available` of the first match of each wanted key, and whether there is
    one."""
    if not len(available):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    order = np.argsort(available, kind="stable")
    at = order[np.minimum(np.searchsorted(available[order], wanted), len(available) - 1)]
    return at, available[at] == wanted


def _keys(rows: Records) -> npt.NDArray[Any]:
    keys = np.empty(len(rows), [("hash", "V16"), ("nth", "<u8")])
    keys["hash"], keys["nth"] = rows["hash"], rows["nth"]
    return keys.view("S24")


def _used(rows: Records) -> npt.NDArray[Any]:
    return np.ascontiguousarray(rows["used"]).view("S16")


def _pairs(records: Records) -> npt.NDArray[Any]:
    pairs = np.empty(len(records), [("key", "S24"), ("used", "S16")])
    pairs["key"], pairs["used"] = records["key"], records["used"]
    return pairs.view("S40")


def _buckets(rows: Records) -> npt.NDArray[Any]:
    """The bucket of each row, of 256; equal rows share a hash and are spread by their number."""
    first = np.ascontiguousarray(rows["hash"]).view(np.uint8)[::16]
    return np.asarray((first + rows["nth"]) & 255)
