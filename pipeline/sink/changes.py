"""The change feed: what a commit changes in the output, line by line, for a vector store.

    {"op": "upsert", ... the row as in a JSONL output ...}
    {"op": "delete", "chunk_id": ...}                    one row per chunk
    {"op": "delete", "id": ..., "identity": ...}         one row per document

Applying them to the output of the last commit gives the output of this one. Copied rows are equal
by construction; all other old and new rows are compared in their written form.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.disk.durable import open_private, replaced, storage_errors, sync_folder
from pipeline.disk.spill import Records, Spill
from pipeline.errors import StateError
from pipeline.parts.index import PartIndex, read_index
from pipeline.parts.layout import OutputLayout
from pipeline.parts.part_rows import PartRows, part_errors
from pipeline.parts.published import (
    NO_ID,
    Published,
    UnreadableOutputError,
    published_output,
    unknown_rows,
)
from pipeline.parts.reuse import readable
from pipeline.parts.snapshot import SnapshotFile
from pipeline.source import identity
from pipeline.source.survey import Survey
from pipeline.text import shown

_LINE = np.dtype(
    [("name", "V16"), ("hash", "V16"), ("is_new", "?"), ("at", "<u8"), ("length", "<u8")]
)
_BLOCK_BYTES = 1 << 26
_BATCH_LINES = 10_000


class CopiedChanges:
    """The rows that were copied unchanged from parts of the last commit into new parts."""

    def __init__(self) -> None:
        self._old: dict[str, array[int]] = {}
        self._new: dict[int, array[int]] = {}

    def add(self, name: str, part: int, start: int, stop: int, at: int) -> None:
        """Records that rows [start, stop) of the old part `name` are those of the new part from
        `at` on."""
        self._old.setdefault(name, array("Q")).extend((start, stop))
        self._new.setdefault(part, array("Q")).extend((at, at + stop - start))

    def not_copied(self, part: PartIndex, number: int | None = None) -> list[tuple[int, int]]:
        """The ranges of rows of an old part, or of the new one of this number, that were not
        copied."""
        ranges = self._old.get(part.path.name) if number is None else self._new.get(number)
        is_uncopied = np.ones(part.header.rows + 2, np.bool_)
        is_uncopied[0] = is_uncopied[-1] = False
        for start, stop in np.array(ranges or (), np.int64).reshape(-1, 2).tolist():
            is_uncopied[start + 1 : stop + 1] = False
        borders = np.flatnonzero(np.diff(is_uncopied.view(np.int8))).reshape(-1, 2)
        return [(start, stop) for start, stop in borders.tolist()]


class Former(NamedTuple):
    """The rows of the last commit: its parts, or the published output where they are damaged."""

    parts: Sequence[PartIndex]
    published: Published | None = None


def former_rows(
    record: SnapshotFile,
    layout: OutputLayout,
    survey: Survey,
    published: Published | None,
    *,
    accept_unknown: bool,
) -> Former:
    """The rows of the last commit. They may be in an output that was removed: the followers of the
    changes still have them. `published` is the output, if it was read.

    Raises: GuardError where they are unknown, unless that is accepted.
    """
    last = record.last
    parts = readable(read_index(layout.parts, layout.part_suffix), last)
    is_whole = last is None or {part.path.name for part in parts} == {p.name for p in last.parts}
    if is_whole and not (last is None and (record.fault or record.is_lost)):
        return Former(parts)
    try:
        return Former((), published or published_output(survey, layout))
    except UnreadableOutputError as error:
        if accept_unknown:
            return Former(parts)
        what = record.fault or "the record or a part of the last commit is damaged"
        reason = f"{what}, and {error}: deletions would be missing from the changes"
        raise unknown_rows(shown(str(layout.path)), reason) from None


def write_changes(
    target: Path,
    former: Former,
    new_parts: Sequence[PartIndex],
    copies: CopiedChanges,
    *,
    id: str,
) -> None:
    """Writes the changes that turn the rows of `former` into those of `new_parts`: deletions, then
    rows, each in order. `id` is the name of the id column; one of the two may have one row per
    chunk and the other one per document. The file is durable when this returns.

    Cost: reads each part that is not in both commits once; memory for a 256th of its rows.
    """
    old_parts, published = former
    both = {part.path.name for part in old_parts} & {part.path.name for part in new_parts}
    lines, selected = Spill(_LINE), Spill(_LINE)
    # Holds all lines, since only the end shows which of them are changes.
    with storage_errors(target), tempfile.TemporaryFile(dir=target.parent) as spool:
        if published is not None:  # its rows are compared with all new ones
            copies = CopiedChanges()
            for path in published.files:
                names = published.row_identities(path)
                ranges, names_of = [(0, len(names))], partial(list[bytes], names)
                _spool_changes(spool, lines, path, ranges, names_of, is_new=False, id=id)
        for is_new, parts in ((False, old_parts), (True, new_parts)):
            for number, part in enumerate(parts):
                if part.path.name not in both:
                    ranges = copies.not_copied(part, number if is_new else None)
                    names_in = partial(_identities, part)
                    _spool_changes(spool, lines, part.path, ranges, names_in, is_new=is_new, id=id)
        for bucket in lines.buckets():
            for records in _differences(lines.bucket(bucket)):
                selected.add(records["at"] // _BLOCK_BYTES, records)
        with open_private(target) as file:
            for block in selected.buckets():
                for record in np.sort(selected.bucket(block), order="at"):
                    spool.seek(int(record["at"]))
                    file.write(spool.read(int(record["length"])))
            file.flush()
            os.fsync(file.fileno())
        sync_folder(target.parent)


def deliver(undelivered: Path, target: Path) -> None:
    """Writes the undelivered changes to the target, all of them or none."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target) as file:
            if undelivered.exists():
                with undelivered.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
        undelivered.unlink(missing_ok=True)


def _spool_changes(
    spool: IO[bytes],
    lines: Spill,
    path: Path,
    ranges: list[tuple[int, int]],
    identities: Callable[[], Sequence[bytes]],
    *,
    is_new: bool,
    id: str,
) -> None:
    """Writes the rows of a file in these ranges as lines of changes. `identities` are those of its
    rows, for one row per document."""
    ranges = [(start, stop) for start, stop in ranges if stop > start]
    if not ranges:
        return
    rows = PartRows(path)
    at = spool.seek(0, os.SEEK_END)
    with part_errors(path), closing(rows):
        # Decided by the part, not the job: the last commit may have had rows of the other kind.
        names = identities() if any(map(_is_document, rows.json(0, 1))) else None
        for start, stop in ranges:
            records: list[tuple[bytes, bytes, bool, int, int]] = []
            for number, row in enumerate(rows.json(start, stop), start):
                name = names[number] if names is not None else _chunk_identity(row)
                # A row without a chunk does not belong in a vector store, nor has it a name without
                # a readable id.
                if name is None or name == NO_ID:
                    continue
                line = (
                    b'{"op":"upsert",' + row[1:]
                    if is_new
                    else _deletion(row, name, None if names is None else id)
                )
                spool.write(line)
                records.append((name, sha256(row).digest()[:16], is_new, at, len(line)))
                at += len(line)
                if len(records) == _BATCH_LINES:
                    _spill_lines(lines, records)
            _spill_lines(lines, records)


def _spill_lines(lines: Spill, records: list[tuple[bytes, bytes, bool, int, int]]) -> None:
    packed = np.array(records, _LINE)
    lines.add(np.ascontiguousarray(packed["name"]).view(np.uint8)[::16], packed)
    records.clear()


def _identities(part: PartIndex) -> list[bytes]:
    """The identity of each row of a part with one row per document."""
    entries = part.entries()
    if entries is None:
        raise StateError(
            f"{shown(str(part.path))}: its index was damaged during the run",
            hint="run again: the damaged part is rebuilt",
        )
    entries = entries[entries["rows"] > 0]
    return [
        hashed if is_unique else identity.of_occurrence(hashed, nth)
        for hashed, nth, is_unique in zip(
            entries["hash"].tolist(),
            entries["nth"].tolist(),
            entries["unique"].tolist(),
            strict=True,
        )
    ]


class _ChunkName(msgspec.Struct):
    chunk_id: str | None = None


_decode_chunk_name = msgspec.json.Decoder(_ChunkName).decode


def _is_document(row: bytes) -> bool:
    """Whether a row is a whole document, not a chunk of one."""
    return "_truncated" in msgspec.json.decode(row, type=dict[str, msgspec.Raw])


def _chunk_identity(row: bytes) -> bytes | None:
    name = _decode_chunk_name(row).chunk_id
    return None if name is None else bytes.fromhex(name)


def _deletion(row: bytes, name: bytes, id: str | None) -> bytes:
    deletion: dict[str, Any] = {"op": "delete"}
    if id is None:
        deletion["chunk_id"] = name.hex()
    else:
        deletion |= {"id": msgspec.json.decode(row).get(id), "identity": name.hex()}
    return msgspec.json.encode(deletion) + b"\n"


def _differences(records: Records) -> Iterator[Records]:
    """The deletions, then the new rows, that are changes."""
    old, new = records[~records["is_new"]], records[records["is_new"]]
    yield old[~np.isin(_as_bytes(old["name"]), _as_bytes(new["name"]))]
    same = np.isin(_pairs(new), _pairs(old))
    yield new[~same]


def _as_bytes(names: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(names).view("S16")


def _pairs(records: Records) -> npt.NDArray[Any]:
    pairs = np.empty(len(records), [("name", "V16"), ("hash", "V16")])
    pairs["name"], pairs["hash"] = records["name"], records["hash"]
    return pairs.view("S32")
