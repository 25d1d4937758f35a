"""The index of a part: which rows it holds, from which input, with which outcome.

The index makes a part reusable: its rows need not be made again. It is written after its part and
is durable before the part counts as finished, so a part that a kill or a full disk truncated has no
index.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from pipeline.disk.durable import replaced, storage_errors
from pipeline.disk.spill import Records
from pipeline.parts.part_rows import INDEX_SUFFIX, is_whole
from pipeline.source.survey import ROW

MAGIC = b"textmill index 1\n"
ENTRY = np.dtype([*ROW.descr, ("rows", "<u8"), ("flags", "u1")])
"""A row of the input, with the number of its rows in the part and flags of their outcome."""

OUTCOMES = ("ok", "partial", "failed")
FIRST = 4
"""Flag: every answer is from the first endpoint that the row may use."""
ISOLATED = 8
"""Flag: the row itself is at fault. Unchanged, it fails again: no retry could help."""
REUSABLE = FIRST | OUTCOMES.index("ok")


class Stamp(Struct, frozen=True):
    """The `stat` figures that show that a part is unchanged."""

    size_bytes: int
    ctime_ns: int


class Header(Struct, frozen=True, kw_only=True):
    """The facts about a finished part."""

    fingerprint: str
    """Of the job, the output's columns and the writer's revision: with any other, the part would
    differ."""
    rows_digest: str
    """Of the input's rows in it, in order; see `rows_digest`."""
    sha256: str
    stamp: Stamp
    documents: int
    rows: int
    dimension: int | None
    is_reusable: bool
    """All its documents are ok, with answers from the first endpoint that they may use."""


class PartIndex(Struct, frozen=True):
    """A finished part and its header."""

    path: Path
    header: Header

    def entries(self) -> Records | None:
        """Its rows, in order; None where the index is damaged. Cost: reads the index."""
        contents = _read_index_file(self.path.with_suffix(INDEX_SUFFIX))
        return None if contents is None or contents[0] != self.header else contents[1]

    def is_sound(self, recorded_stamp: Stamp | None = None) -> bool:
        """Whether the part is as it was written: checks the end of the file where size and ctime
        are as recorded (`recorded_stamp` is more recent than the index), else the hash.

        Publishing a part adds a link to it, which changes its ctime.
        """
        try:
            stamp = stamp_of(self.path)
            if stamp in (recorded_stamp, self.header.stamp):
                return is_whole(self.path, self.header.rows)
            return stamp.size_bytes == self.header.stamp.size_bytes and (
                sha256_of(self.path) == self.header.sha256
            )
        except OSError:
            return False


def rows_digest(rows: Records) -> str:
    """The digest of the input's rows in a part: equal for the same unchanged rows in the same
    order."""
    return hashlib.sha256(rows.tobytes()).hexdigest()


def stamp_of(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(status.st_size, status.st_ctime_ns)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(path: Path, header: Header, entries: Records) -> PartIndex:
    """Writes the index beside its part; it is durable when this returns."""
    raw = msgspec.json.encode(header)
    body = entries.tobytes()
    head = len(raw).to_bytes(4, "big") + zlib.crc32(raw).to_bytes(4, "big")
    target = path.with_suffix(INDEX_SUFFIX)
    with storage_errors(target), replaced(target) as file:
        file.write(MAGIC + head + raw + hashlib.sha256(body).digest() + body)
    return PartIndex(path, header)


def read_index(folder: Path, suffix: str) -> Iterator[PartIndex]:
    """The finished parts in this folder, by name; a part without index does not count, nor an index
    without part."""
    for path in sorted(folder.glob(f"*{INDEX_SUFFIX}")):
        part = path.with_suffix(suffix)
        contents = _read_index_file(path, is_header_enough=True)
        if contents is not None and part.exists():
            yield PartIndex(part, contents[0])


def _read_index_file(
    path: Path, *, is_header_enough: bool = False
) -> tuple[Header, Records] | None:
    try:
        with path.open("rb") as file:
            start = len(MAGIC) + 8
            head = file.read(start)
            size, crc = head[-8:-4], head[-4:]
            raw = file.read(int.from_bytes(size, "big"))
            if head[:-8] != MAGIC or zlib.crc32(raw).to_bytes(4, "big") != crc:
                return None
            header = msgspec.json.decode(raw, type=Header)
            if is_header_enough:
                return header, np.empty(0, ENTRY)
            digest, body = file.read(32), file.read()
    except (OSError, msgspec.MsgspecError):
        return None
    if hashlib.sha256(body).digest() != digest or len(body) != header.documents * ENTRY.itemsize:
        return None
    return header, np.frombuffer(body, ENTRY)
