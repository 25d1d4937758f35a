"""Plans what a run reuses: which parts are kept, and which rows are copied.

Most rows of a nightly run equal those of the night before. A part whose rows are all equal, ok and
in the same order is kept. In a touched part, the output of rows that are equal and ok is copied,
and only the rest is chunked and looked up. Parts of the last commit and of a killed run are treated
alike: resuming has no path of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from pipeline.disk.spill import PACKED_ROWS, Packed, Records, Spill
from pipeline.errors import StateError
from pipeline.parts.index import PartIndex, read_index, rows_digest
from pipeline.parts.join import Accounting, Join
from pipeline.parts.layout import OutputLayout
from pipeline.parts.published import Published, read_output
from pipeline.parts.snapshot import Snapshot, SnapshotPart
from pipeline.source.survey import Survey

MAX_SOURCES = 8
OPEN_PARTS = 2
"""Parts that are open for copying at a time; each holds a row group in memory."""
MIN_COPIED_ROWS = 16
"""If the rows of a part come from more than `MAX_SOURCES` parts, sources with fewer rows than this
are not opened: their rows are looked up."""
_ORIGIN = np.dtype([("part", "<i4"), ("entry", "<u4")])
"""The origin of a row's output: an entry of one of the source parts."""
MAX_JUMPS = 100
"""If the rows of a part come from more than two others, or in no order, each jump between them may
read a row group again. Above this number of jumps the rows are looked up instead, which costs the
same in any order."""


class CopiedRows(Struct, frozen=True):
    """A run of rows whose output is copied: the counterpart of `PreparedDocument`."""

    row: int
    """The number of its first row in the input."""
    part: int
    documents: int
    source: PartIndex
    entries: Records | None
    """The rows of `source` to copy, in their new order; None: the whole part is kept."""
    starts: npt.NDArray[np.int64] | None = None
    """The first output row of each entry in `source`."""

    @property
    def rows(self) -> int:
        """Number of output rows."""
        return self.source.header.rows if self.entries is None else int(self.entries["rows"].sum())

    @property
    def weight_bytes(self) -> int:
        """Bytes that it holds in memory while it waits; the rows are read when they are written."""
        return 0 if self.entries is None else 2 * int(self.entries.nbytes)


class Reuse:
    """What a run reuses; by default nothing.

    Cost: a name per part, and 8 bytes on disk per row of a touched part.
    """

    def __init__(self, survey: Survey) -> None:
        self.part_rows: Sequence[int] = survey.part_rows
        self.accounting = Accounting(added=survey.rows)
        self.has_ids = survey.spec.id is not None
        self.snapshot: Snapshot | None = None
        self.published: Published | None = None
        """The published output, read where the snapshot or an index does not show its rows."""
        self.note = ""
        """What the user should know about the comparison with the last commit."""
        self.dimension: int | None = None
        self.former: list[PartIndex] = []
        """The parts of the last commit with readable indexes."""
        self.used: set[str] = set()
        """Names of the parts that are kept or copied from."""
        self._kept: dict[int, PartIndex] = {}
        self._sources: Sequence[PartIndex] = ()
        self._origins = Packed(_ORIGIN)
        self._offsets: dict[int, int] = {}
        """For each part with copied rows, the position of its first row in `_origins`."""

    @property
    def commit(self) -> str | None:
        """A name of the last commit; None: there is none, or nothing of it is known."""
        if self.snapshot is not None:
            return self.snapshot.run
        return None if self.published is None else self.published.stamp

    def expect_dimension(self, model: str, job: str) -> None:
        """Where only the output itself shows the dimension of its vectors, expects the same of this
        model and this job."""
        published = self.published
        if self.dimension is None and published and published.made_by == (model, job):
            self.dimension = published.dimension

    def __contains__(self, part: int) -> bool:
        return part in self._kept

    def keep(self, part: int, index: PartIndex) -> None:
        """Keeps this part of the output as it is."""
        self._kept[part] = index
        self.used.add(index.path.name)

    def count_removed(self, documents: int) -> None:
        """Counts removed rows by the number of documents in the last commit: without ids, an output
        does not show which of its rows changed."""
        accounting = self.accounting
        matched = sum(self.part_rows) - accounting.added
        self.accounting = replace(accounting, removed=max(0, documents - matched))

    def copy(self, sources: Sequence[PartIndex], accounting: Accounting, matches: Spill) -> None:
        """Copies rows that match rows of these parts, if that is worth opening a part.

        This is decided here, once: source, sink, budget and drift check read it.
        """
        self._sources, self.accounting = sources, accounting
        offset = 0
        for number, origins in self._matches_by_part(matches):
            _drop_scattered(origins)
            if (origins["part"] >= 0).any():
                self._origins.add(origins.tobytes())
                parts = np.unique(origins["part"][origins["part"] >= 0]).tolist()
                self.used |= {sources[part].path.name for part in parts}
                self._offsets[number], offset = offset, offset + len(origins)

    def _matches_by_part(self, matches: Spill) -> Iterator[tuple[int, Records]]:
        """For each part that is not kept, in order: its number and the origins of its rows."""
        block, loaded = np.empty(0, matches.kind), -1
        for number, start, count in self._parts():
            if number in self._kept:
                continue
            origins = np.zeros(count, _ORIGIN)
            origins["part"] = -1
            for bucket in range(start // PACKED_ROWS, (start + count - 1) // PACKED_ROWS + 1):
                if bucket != loaded:
                    block, loaded = matches.bucket(bucket), bucket
                matched = block[(block["row"] >= start) & (block["row"] < start + count)]
                at = (matched["row"] - start).astype(np.int64)
                origins["part"][at], origins["entry"][at] = matched["part"], matched["entry"]
            yield number, origins

    @property
    def keeps_all(self) -> bool:
        """True if no row needs processing."""
        return len(self._kept) == len(self.part_rows)

    def needed(self) -> Iterator[npt.NDArray[np.int64]]:
        """For each part, the numbers of its rows to process, counted from the first row."""
        for number, start, count in self._parts():
            yield np.flatnonzero(~self._reused_mask(number, count)) + start

    def compared_rows(self) -> Iterator[npt.NDArray[np.int64]]:
        """For each part, the numbers of rows that were probably in the last commit: its other rows,
        and all rows where only the output itself is known."""
        for number, start, count in self._parts():
            reused = np.flatnonzero(self._reused_mask(number, count)) + start
            is_enough = self.published is None or len(reused)
            yield reused if is_enough else np.arange(start, start + count)

    def copied_runs(self) -> Iterator[CopiedRows]:
        """The reused rows, in runs and in order."""
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
        """The origins of the rows of a part; part -1: to process."""
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
                if entries is None:  # it was readable before
                    raise StateError(
                        f"{self._sources[part].path}: its index was damaged during the run",
                        hint="run again: damaged parts are rebuilt",
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
    survey: Survey,
    layout: OutputLayout,
    fingerprint: str,
    snapshot: Snapshot | None,
    *,
    fault: str = "",
    has_changes: bool = False,
    accept_unknown: bool = False,
) -> Reuse:
    """What a run over this input reuses. Blocks: run it in a thread.

    `fault`: why there is an output and no snapshot of it; then the output itself is read, as where
    an index is damaged. Changes need the indexes of kept parts too.
    Raises: GuardError where the rows of the last commit are unknown, unless that is accepted.
    Cost: one header per part; if rows differ, one pass over the indexes of touched parts.
    """
    reuse = Reuse(survey)
    reuse.snapshot = snapshot
    listed = {part.name: part for part in snapshot.parts} if snapshot else {}
    found = list(read_index(layout.parts, layout.part_suffix))
    former = [each for each in found if _is_listed(each, listed)]
    usable = [each for each in found if each.header.fingerprint == fingerprint]
    # The newest first: it holds most rows of the parts before it, which are then of no use.
    usable.sort(key=lambda each: each.header.stamp.ctime_ns, reverse=True)
    reuse.former = former
    reuse.dimension = next((e.header.dimension for e in usable if e.header.dimension), None)
    names = {each.path.name for each in former}
    # Of two parts with the same rows, the published one is kept.
    whole = sorted(usable, key=lambda each: each.path.name in names)
    by_digest = {each.header.rows_digest: each for each in whole if each.header.is_reusable}
    kept: dict[int, str] = {}
    for number, rows in enumerate(survey.rows_by_part()):
        part = by_digest.get(rows_digest(rows)) if by_digest else None
        is_usable = part is not None and _is_sound(part, listed)
        if part is not None and is_usable and not (has_changes and part.entries() is None):
            reuse.keep(number, part)
            kept[number] = part.path.name
    kept_names = set(kept.values())
    rest = [each for each in former if each.path.name not in kept_names]
    if not fault and (listed.keys() - names or any(each.entries() is None for each in rest)):
        fault = "an index of the last commit is missing or damaged"
    if fault:
        reuse.published, reuse.note = read_output(survey, layout, fault, accept=accept_unknown)
    join = Join()
    # Rows of the output itself are joined one by one: their parts are unknown.
    settled = () if reuse.published else names
    start = unchanged = 0
    for number, rows in enumerate(survey.rows_by_part()):
        if kept.get(number) in settled:
            unchanged += len(rows)
        else:
            join.add_new(rows, start)
        start += len(rows)
    if snapshot is None and not usable and reuse.published is None:
        return reuse
    others = [
        each
        for each in (*former, *usable)
        if reuse.published is not None or each.path.name not in kept_names
    ]
    sources = list({each.path.name: each for each in others}.values())
    for at, each in enumerate(sources):
        is_usable = each.header.fingerprint == fingerprint and _is_sound(each, listed)
        join.add_old(each, at, is_published=each.path.name in names, is_usable=is_usable)
    if (published := reuse.published) is not None and reuse.has_ids:
        for at in range(0, published.readable, PACKED_ROWS):
            join.add_published(published.identities.slice(at, at + PACKED_ROWS))
    reuse.copy(sources, *join.result(unchanged))
    if published is not None and not reuse.has_ids:
        reuse.count_removed(published.documents)
    return reuse


def readable(found: Iterable[PartIndex], snapshot: Snapshot | None) -> list[PartIndex]:
    """The parts that belong to this commit and are undamaged, with their indexes."""
    listed = {part.name: part for part in snapshot.parts} if snapshot else {}
    return [
        part
        for part in found
        if _is_listed(part, listed) and _is_sound(part, listed) and part.entries() is not None
    ]


def _drop_scattered(origins: Records) -> None:
    """Drops origins that are not worth opening their part for."""
    parts, counts = np.unique(origins["part"], return_counts=True)
    if len(parts) > MAX_SOURCES:
        origins["part"][np.isin(origins["part"], parts[counts < MIN_COPIED_ROWS])] = -1
    if jumps(origins[origins["part"] >= 0]) > MAX_JUMPS:
        origins["part"] = -1


def jumps(copied: Records) -> int:
    """How often these rows, read in this order, go back in a part or switch between many parts."""
    parts, entries = copied["part"], copied["entry"].astype(np.int64)
    order = np.argsort(parts, kind="stable")
    is_back = (np.diff(parts[order]) == 0) & (np.diff(entries[order]) < 0)
    jumps = np.count_nonzero(is_back)
    if len(np.unique(parts)) > OPEN_PARTS:
        jumps += np.count_nonzero(np.diff(parts))
    return int(jumps)


def _is_listed(part: PartIndex, listed: dict[str, SnapshotPart]) -> bool:
    entry = listed.get(part.path.name)
    return entry is not None and entry.sha256 == part.header.sha256


def _is_sound(part: PartIndex, listed: dict[str, SnapshotPart]) -> bool:
    entry = listed.get(part.path.name)
    return part.is_sound(entry.stamp if entry is not None else None)
