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

from pipeline.disk.spill import PACKED_ROWS, Records, Spill
from pipeline.errors import GuardError, StateError
from pipeline.parts.index import PartIndex, read_index, rows_digest
from pipeline.parts.join import _ORIGIN, Accounting, _Join
from pipeline.parts.layout import OutputLayout
from pipeline.parts.snapshot import Snapshot, SnapshotPart
from pipeline.records import Request
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
MAX_JUMPS = 100
"""Where rows of a part lie in more than two others, or in no order, each jump between them may mean
to read a row group again. With more jumps the rows are looked up: that costs the same in any
order."""


class CopiedRows(Struct, frozen=True):
    """A run of rows whose output stands already: the sibling of `PreparedDocument`."""

    part: int
    documents: int
    source: PartIndex
    entries: Records | None
    """The rows in `source` to copy, in their new order; None: all of it, kept as it stands."""
    starts: npt.NDArray[np.int64] | None = None
    """Where each one's output begins in `source`."""

    @property
    def requests(self) -> Sequence[Request]:
        """None: that is the point."""
        return ()

    @property
    def long(self) -> None:
        """It has no segments, however long its documents are."""

    @property
    def is_last(self) -> bool:
        return True

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

    Cost: per part a name, per row of a touched part some 100 bytes on disk.
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
        self._origins = Spill(_ORIGIN)

    def __contains__(self, part: int) -> bool:
        return part in self._kept

    def keep(self, part: int, snapshot: PartIndex) -> None:
        """This part is kept as it stands."""
        self._kept[part] = snapshot

    def copy(self, sources: Sequence[PartIndex], accounting: Accounting, origins: Spill) -> None:
        """These rows of these parts are copied."""
        self._sources, self.accounting, self._origins = sources, accounting, origins

    @property
    def keeps_all(self) -> bool:
        """Whether no row at all is to be done."""
        return len(self._kept) == len(self.part_rows)

    def origins(self) -> Iterator[npt.NDArray[np.int64] | None]:
        """For each part in order: where its rows come from, (part, entry), part -1 where they are
        to be done; None for a part that is kept. Shape: (rows, 2)."""
        start, block, loaded = 0, np.empty(0, _ORIGIN), -1
        for number, count in enumerate(self.part_rows):
            if number in self._kept:
                yield None
                start += count
                continue
            found = np.full((count, 2), -1, np.int64)
            for bucket in range(start // PACKED_ROWS, (start + count - 1) // PACKED_ROWS + 1):
                if bucket != loaded:
                    block, loaded = self._origins.bucket(bucket), bucket
                mine = block[(block["row"] >= start) & (block["row"] < start + count)]
                at = (mine["row"] - start).astype(np.int64)
                found[at, 0], found[at, 1] = mine["part"], mine["entry"]
            _drop_scattered(found)
            yield found
            start += count

    def needed(self) -> Iterator[npt.NDArray[np.int64]]:
        """For each part the numbers of its rows that are to be done, counted from the first row."""
        start = 0
        for count, origins in zip(self.part_rows, self.origins(), strict=True):
            mine = np.empty(0, np.int64) if origins is None else np.flatnonzero(origins[:, 0] < 0)
            yield mine + start
            start += count

    def runs(self) -> Iterator[CopiedRows | int]:
        """What becomes of the rows, in order: copied ones in runs, and how many to do between."""
        for number, origins in enumerate(self.origins()):
            if origins is None:
                whole = self._kept[number]
                yield CopiedRows(number, whole.header.documents, whole, None)
            else:
                yield from self._runs(number, origins)

    def _runs(self, number: int, origins: npt.NDArray[np.int64]) -> Iterator[CopiedRows | int]:
        opened: dict[int, tuple[Records, npt.NDArray[np.int64]]] = {}
        parts = origins[:, 0]
        borders = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)]
        for start, stop in pairwise(borders):
            part = int(parts[start])
            if part < 0:
                yield stop - start
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
            at = origins[start:stop, 1]
            yield CopiedRows(
                number, stop - start, self._sources[part], entries[at], starts[at].astype(np.int64)
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


def _drop_scattered(origins: npt.NDArray[np.int64]) -> None:
    """Of rows from many parts only those that come in numbers are copied: each must be read."""
    parts, counts = np.unique(origins[:, 0], return_counts=True)
    if len(parts) > MAX_SOURCES:
        origins[np.isin(origins[:, 0], parts[counts < MIN_COPIED_ROWS]), 0] = -1
    copied = origins[origins[:, 0] >= 0]
    if jumps(copied) > MAX_JUMPS:
        origins[:, 0] = -1


def jumps(copied: npt.NDArray[np.int64]) -> int:
    """How often these rows, read in this order, go back in a part or, of many, on to another."""
    order = np.argsort(copied[:, 0], kind="stable")
    back = np.diff(copied[order], axis=0)
    jumps = np.count_nonzero((back[:, 0] == 0) & (back[:, 1] < 0))
    if len(np.unique(copied[:, 0])) > OPEN_PARTS:
        jumps += np.count_nonzero(np.diff(copied[:, 0]))
    return int(jumps)


def _is_listed(part: PartIndex, listed: dict[str, SnapshotPart]) -> bool:
    mine = listed.get(part.path.name)
    return mine is not None and mine.sha256 == part.header.sha256


def _is_sound(part: PartIndex, listed: dict[str, SnapshotPart]) -> bool:
    mine = listed.get(part.path.name)
    return part.is_sound(mine.stamp if mine is not None else None)
