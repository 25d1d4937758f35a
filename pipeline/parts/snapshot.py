"""What stands under an output's name: the record that the next run begins with.

A commit renames one name, and a kill may come just before or just after. So the record of the new
output is durable before the rename, under a name of its own, and whoever comes next looks which of
the two is true:

    <output>.run/next.json        what is about to be published
    <output>.run/standing.json    what is published
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from pipeline.disk.durable import private, storing, sync_folder
from pipeline.parts.index import Stamp
from pipeline.parts.layout import Place

REVISION = 1


class StandingPart(Struct, frozen=True):
    """A part of the output. `stamp` is None until its last link was made."""

    name: str
    sha256: str
    documents: int
    rows: int
    stamp: Stamp | None = None


class FileStamp(Struct, frozen=True):
    """Which file this is. Not its ctime: the rename that publishes it changes that."""

    inode: int
    size_bytes: int
    mtime_ns: int


class Standing(Struct, frozen=True, kw_only=True):
    """The output of the last commit."""

    revision: int = REVISION
    run: str
    """The run that wrote it; a directory output links to the version of this name."""
    fingerprint: str
    """Of its parts; see `pipeline.parts.index.Header`."""
    dimension: int | None
    documents: int
    rows: int
    parts: tuple[StandingPart, ...]
    file: FileStamp | None
    """None for a directory."""
    has_changes: bool = False
    """What this commit changed lies beside `next.json`."""


class StandingRecord:
    """Reads and writes the record; whoever has one holds the lock of the run folder.

    Raises: StorageError.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._path = place.run_folder / "standing.json"
        self._next = place.run_folder / "next.json"
        self.next_changes = place.run_folder / "changes.next.jsonl"
        """The changes of the commit that is about to be."""
        self.owed_changes = place.run_folder / "changes.owed.jsonl"
        """Changes of commits that nobody was given yet."""
        self.last: Standing | None = None
        """The last commit, once it was read, also where its output was removed since."""

    def read(self) -> Standing | None:
        """What stands; None where nothing does, or nothing is known of it."""
        coming = _decoded(self._next)
        if coming is not None and self.is_published(coming):
            self.settle(coming)
        with storing(self._next):
            self._next.unlink(missing_ok=True)
            self.next_changes.unlink(missing_ok=True)
        self.last = _decoded(self._path)
        return self.last if self._place.exists() else None

    def is_published(self, standing: Standing) -> bool:
        """Whether the output is this one, with all of its files."""
        place = self._place
        if place.suffix:
            try:
                return file_stamp(place.path) == standing.file
            except OSError:
                return False
        return place.linked_version() == standing.run and all(
            (place.path / place.part_name(number)).exists()
            for number in range(max(1, len(standing.parts)))
        )

    def announce(self, standing: Standing) -> None:
        """Before the rename: this is what it publishes."""
        _write(self._next, standing)

    def settle(self, standing: Standing) -> None:
        """After the rename: this is what stands, and its changes are owed."""
        if standing.has_changes:
            with storing(self.owed_changes):
                if self.next_changes.exists():
                    self._owe()
        _write(self._path, standing)
        with storing(self._next):
            self._next.unlink(missing_ok=True)

    def _owe(self) -> None:
        """Adds the changes of this commit to those owed, in one rename: a change that comes twice
        does no harm, one that is lost does."""
        if self.owed_changes.exists():
            both = self.owed_changes.with_name("changes.both.tmp")
            with private(both) as file:
                for each in (self.owed_changes, self.next_changes):
                    with each.open("rb") as source:
                        while piece := source.read(1 << 20):
                            file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            both.replace(self.owed_changes)
            self.next_changes.unlink()
        else:
            self.next_changes.replace(self.owed_changes)
        sync_folder(self.owed_changes.parent)


def file_stamp(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


def _decoded(path: Path) -> Standing | None:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Standing)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.revision == REVISION else None


def _write(path: Path, standing: Standing) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with storing(path):
        with private(temporary) as file:
            file.write(msgspec.json.encode(standing) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
