"""What of this input stands already: which parts are kept, and which rows are copied.

Most rows of a nightly run are those of the night before. A part whose rows are all equal, ok and in
the same order is kept as it stands; in a touched part the output of rows that are equal and ok is
copied; only the rest is chunked and looked up. Where a part comes from, from the last commit or
from a run that was killed, makes no difference: resuming has no path of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from pipeline.disk.spill import PACKED_ROWS, Packed, Records, Spill
from pipeline.errors import GuardError, StateError
from pipeline.parts.index import PartIndex, read_index, rows_digest
from pipeline.parts.join import Accounting, _Join
from pipeline.parts.layout import OutputLayout
from pipeline.parts.snapshot import Snapshot, SnapshotPart
from pipeline.source.survey import Survey
from pipeline.text import shown

MIN_REMOVED_ROWS = 20
"""`guard.max_removed` never means fewer rows than this: five of eight rows are no sign of a
fault."""
MAX_SOURCES = 8
OPEN_PARTS = 2
"""Parts that rows are copied from, open at a time; each holds a row group."""
MIN_COPIED_ROWS = 16
"""Where rows of a part come from more parts than `MAX_SOURCES`, fewer than this are not worth
opening one for: they are looked up."""
_ORIGIN = np.dtype([("part", "<i4"), ("entry", "<u4")])
"""Where a row's output lies: an entry of a part among the sources."""
MAX_JUMPS = 100
"""Where rows of a part lie in more than two others, or in no order, each jump between them may mean
to read a row group again. With more jumps the rows are looked up: that costs the same in any
order."""


class CopiedRows(Struct, frozen=True):
    """A run of rows whose output stands already: the sibling of `PreparedDocument`."""

    row: int
    """Its first row's place in the input."""
    part: int
    documents: int
    source: PartIndex
    entries: Records | None
    """The rows in `source` to copy, in their new order; None: all of it, kept as it stands."""
    starts: npt.NDArray[np.int64] | None = None
    """Where each one's output begins in `source`."""

    @property
    def rows(self) -> int:
        """Rows of output."""
        return self.source.header.rows if self.entries is None else int(self.entries["rows"].sum())

    @property
    def weight_bytes(self) -> int:
        """What it holds in memory while it waits; the rows themselves are read on writing."""
        return 0 if self.entries is None else 2 * int(self.entries.nbytes)


class Reuse:
    """The plan of a run over what stands; without any, everything is to be done.

    Cost: per part a name, per row of a touched part 8 bytes on disk.
    """

    def __init__(self, survey: Survey) -> None:
        self.part_rows: Sequence[int] = survey.part_rows
        self.accounting = Accounting(added=survey.rows)
        self.has_ids = survey.spec.id is not None
        self.snapshot: Snapshot | None = None
        self.dimension: int | None = None
        self.former: list[PartIndex] = []
        """The parts of the last commit, as far as their indexes can be read."""
        self._kept: dict[int, PartIndex] = {}
        self._sources: Sequence[PartIndex] = ()
        self._origins = Packed(_ORIGIN)
        self._offsets: dict[int, int] = {}
        """Of each part with copied rows: where in `_origins` its rows begin."""

    def __contains__(self, part: int) -> bool:
        return part in self._kept

    def keep(self, part: int, snapshot: PartIndex) -> None:
        """This part is kept as it stands."""
        self._kept[part] = snapshot

    def copy(self, sources: Sequence[PartIndex], accounting: Accounting, matches: Spill) -> None:
        """Rows that match rows of these parts are copied, where that is worth opening a part for.

        Which ones is settled here, once: source, sink, budget and drift check read it.
        """
        self._sources, self.accounting = sources, accounting
        offset = 0
        for number, origins in self._matches_by_part(matches):
            _drop_scattered(origins)
            if (origins["part"] >= 0).any():
                self._origins.add(origins.tobytes())
                self._offsets[number], offset = offset, offset + len(origins)

    def _matches_by_part(self, matches: Spill) -> Iterator[tuple[int, Records]]:
        """For each part that is not kept, in order, its number and what its rows match."""
        block, loaded = np.empty(0, matches.kind), -1
        for number, start, count in self._parts():
            if number in self._kept:
                continue
            origins = np.zeros(count, _ORIGIN)
            origins["part"] = -1
            for bucket in range(start // PACKED_ROWS, (start + count - 1) // PACKED_ROWS + 1):
                if bucket != loaded:
                    block, loaded = matches.bucket(bucket), bucket
                mine = block[(block["row"] >= start) & (block["row"] < start + count)]
                at = (mine["row"] - start).astype(np.int64)
                origins["part"][at], origins["entry"][at] = mine["part"], mine["entry"]
            yield number, origins

    @property
    def keeps_all(self) -> bool:
        """Whether no row at all is to be done."""
        return len(self._kept) == len(self.part_rows)

    def needed(self) -> Iterator[npt.NDArray[np.int64]]:
        """For each part the numbers of its rows that are to be done, counted from the first row."""
        for number, start, count in self._parts():
            yield np.flatnonzero(~self._reused_mask(number, count)) + start

    def reused_rows(self) -> Iterator[npt.NDArray[np.int64]]:
        """For each part the numbers of its other rows, in the same way."""
        for number, start, count in self._parts():
            yield np.flatnonzero(self._reused_mask(number, count)) + start

    def copied_runs(self) -> Iterator[CopiedRows]:
        """The rows that are not to be done, in runs and in order."""
        for number, start, _ in self._parts():
            if number in self._kept:
                whole = self._kept[number]
                yield CopiedRows(start, number, whole.header.documents, whole, None)
            elif number in self._offsets:
                yield from self._runs(number, start)

    def _parts(self) -> Iterator[tuple[int, int, int]]:
        """Number, first row and rows of each part."""
        start = 0
        for number, count in enumerate(self.part_rows):
            yield number, start, count
            start += count

    def _reused_mask(self, number: int, count: int) -> npt.NDArray[np.bool_]:
        if number in self._offsets:
            return np.asarray(self._origins_of(number)["part"] >= 0)
        return np.full(count, number in self._kept)

    def _origins_of(self, number: int) -> Records:
        """Where the rows of a part come from; part -1: they are to be done."""
        offset = self._offsets[number]
        return self._origins.slice(offset, offset + self.part_rows[number])

    def _runs(self, number: int, first: int) -> Iterator[CopiedRows]:
        origins = self._origins_of(number)
        opened: dict[int, tuple[Records, npt.NDArray[np.int64]]] = {}
        borders = [0, *(np.flatnonzero(np.diff(origins["part"])) + 1).tolist(), len(origins)]
        for start, stop in pairwise(borders):
            part = int(origins["part"][start])
            if part < 0:
                continue
            if part not in opened:
                entries = self._sources[part].entries()
                if entries is None:  # it was read a moment ago
                    raise StateError(
                        f"{self._sources[part].path}: its index was damaged during the run",
                        hint="run again: what is damaged is built anew",
                    )
                opened[part] = entries, np.cumsum(entries["rows"]) - entries["rows"]
            entries, starts = opened[part]
            at = origins["entry"][start:stop]
            yield CopiedRows(
                first + start,
                number,
                stop - start,
                self._sources[part],
                entries[at],
                starts[at].astype(np.int64),
            )


def plan_reuse(
    survey: Survey, layout: OutputLayout, fingerprint: str, snapshot: Snapshot | None
) -> Reuse:
    """What of this input stands already. Blocks: run it in a thread.

    Cost: a look at each part; where rows differ, one pass over the indexes of touched parts.
    """
    reuse = Reuse(survey)
    reuse.snapshot = snapshot
    listed = {part.name: part for part in snapshot.parts} if snapshot else {}
    found = list(read_index(layout.parts, layout.part_suffix))
    former = [each for each in found if _is_listed(each, listed)]
    usable = [each for each in found if each.header.fingerprint == fingerprint]
    reuse.former = former
    reuse.dimension = next((e.header.dimension for e in usable if e.header.dimension), None)
    names = {each.path.name for each in former}
    # Of two parts with the same rows the one that stands is the one to keep.
    whole = sorted(usable, key=lambda each: each.path.name in names)
    recipes = {each.header.rows_digest: each for each in whole if each.header.is_reusable}
    kept: set[str] = set()
    unchanged = 0
    join = _Join()
    start = 0
    for number, rows in enumerate(survey.rows_by_part()):
        part = recipes.get(rows_digest(rows)) if recipes else None
        if part is not None and _is_sound(part, listed):
            reuse.keep(number, part)
            kept.add(part.path.name)
        if part is not None and number in reuse and part.path.name in names:
            unchanged += len(rows)
        else:
            join.add_new(rows, start)
        start += len(rows)
    if snapshot is None and not usable:
        return reuse
    rest = [each for each in (*former, *usable) if each.path.name not in kept]
    sources = list({each.path.name: each for each in rest}.values())
    for at, each in enumerate(sources):
        is_usable = each.header.fingerprint == fingerprint and _is_sound(each, listed)
        join.add_old(each, at, stands=each.path.name in names, is_usable=is_usable)
    reuse.copy(sources, *join.joined(unchanged))
    return reuse


def readable(found: Iterable[PartIndex], snapshot: Snapshot | None) -> list[PartIndex]:
    """Those of these parts that are of this commit, and as they were written."""
    listed = {part.name: part for part in snapshot.parts} if snapshot else {}
    return [part for part in found if _is_listed(part, listed) and _is_sound(part, listed)]


def check_removed(reuse: Reuse, max_removed: float, output: str) -> None:
    """Raises: GuardError where more of the last commit's rows are gone than may be.

    An input that came half is no reason to throw the other half away. Of a small table a few rows
    are a large share, so that up to 20 may always go. Of rows without ids one that changed counts
    as removed and as added: there it is the number of rows that tells.
    """
    before = reuse.snapshot.documents if reuse.snapshot else 0
    most = max(MIN_REMOVED_ROWS, int(max_removed * before))
    gone = reuse.accounting.removed
    if not reuse.has_ids:
        gone -= reuse.accounting.added
    if gone > most:
        raise GuardError(
            f"{shown(output)}: {gone:,} of the {before:,} rows of the last "
            f"commit are not in the input any more, more than guard.max_removed allows ({most:,})",
            hint="if they are meant to go: --max-removed 1",
        )


def _drop_scattered(origins: Records) -> None:
    """Of rows from many parts only those that come in numbers are copied: each must be read."""
    parts, counts = np.unique(origins["part"], return_counts=True)
    if len(parts) > MAX_SOURCES:
        origins["part"][np.isin(origins["part"], parts[counts < MIN_COPIED_ROWS])] = -1
    if jumps(origins[origins["part"] >= 0]) > MAX_JUMPS:
        origins["part"] = -1


def jumps(copied: Records) -> int:
    """How often these rows, read in this order, go back in a part or, of many, on to another."""
    parts, entries = copied["part"], copied["entry"].astype(np.int64)
    order = np.argsort(parts, kind="stable")
    is_back = (np.diff(parts[order]) == 0) & (np.diff(entries[order]) < 0)
    jumps = np.count_nonzero(is_back)
    if len(np.unique(parts)) > OPEN_PARTS:
        jumps += np.count_nonzero(np.diff(parts))
    return int(jumps)


def _is_listed(part: PartIndex, listed: dict[str, SnapshotPart]) -> bool:
    mine = listed.get(part.path.name)
    return mine is not None and mine.sha256 == part.header.sha256


def _is_sound(part: PartIndex, listed: dict[str, SnapshotPart]) -> bool:
    mine = listed.get(part.path.name)
    return part.is_sound(mine.stamp if mine is not None else None)
