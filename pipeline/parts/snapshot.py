"""The snapshot of the last commit: which parts the output consists of.

A commit is one rename, and a kill may come just before or just after it. So the snapshot of the new
output is durable before the rename, in a file of its own, and the next run finds out which of the
two is current:

    <output>.run/pending.json     the snapshot that is about to be published
    <output>.run/snapshot.json    the published snapshot
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from pipeline.disk.durable import rename, replaced, storage_errors
from pipeline.parts.index import Stamp
from pipeline.parts.layout import OutputLayout

REVISION = 1
MISSING = "snapshot.json is missing"


class SnapshotPart(Struct, frozen=True):
    """A part of the output. `stamp` is None until the last link to it exists."""

    name: str
    sha256: str
    documents: int
    rows: int
    stamp: Stamp | None = None


class FileStamp(Struct, frozen=True):
    """The identity of a file. It has no ctime, since the rename that publishes it changes that."""

    inode: int
    size_bytes: int
    mtime_ns: int


class Snapshot(Struct, frozen=True, kw_only=True):
    """The output of the last commit."""

    revision: int = REVISION
    run: str
    """The run that wrote it; a directory output links to the version of this name."""
    fingerprint: str
    """Of its parts; see `pipeline.parts.index.Header`."""
    dimension: int | None
    documents: int
    rows: int
    parts: tuple[SnapshotPart, ...]
    file: FileStamp | None
    """None for a directory."""
    has_changes: bool = False
    """Whether the changes of this commit are in a file beside `pending.json`."""


class SnapshotFile:
    """Reads and writes the snapshot; its user holds the lock of the run folder.

    Raises: StorageError.
    """

    def __init__(self, layout: OutputLayout) -> None:
        self._layout = layout
        self._path = layout.run_folder / "snapshot.json"
        self._pending_path = layout.run_folder / "pending.json"
        self.pending_changes = layout.run_folder / "changes.pending.jsonl"
        """The changes of the commit in progress."""
        self.undelivered_changes = layout.run_folder / "changes.undelivered.jsonl"
        """Changes of earlier commits that were not delivered yet."""
        self.last: Snapshot | None = None
        """The last commit, once read, also where its output was removed since."""
        self.fault = ""
        """Why there is an output and no valid snapshot of it, once read."""
        self.is_lost = False
        """Whether there was a commit whose snapshot is unreadable, once read."""

    def read(self) -> Snapshot | None:
        """The current snapshot; None where there is no output, or no valid snapshot of it."""
        pending, _ = _read_snapshot(self._pending_path)
        if pending is not None and self.is_published(pending):
            self.settle(pending)
        with storage_errors(self._pending_path):
            self._pending_path.unlink(missing_ok=True)
            self.pending_changes.unlink(missing_ok=True)
        self.last, fault = _read_snapshot(self._path)
        self.is_lost = self.last is None and fault != MISSING
        if not self._layout.is_published(is_first=self.last is None and fault == MISSING):
            return None
        if self.last is not None and not self._is_of_output(self.last):
            fault = "the output is not the one of the last commit"
        self.fault = fault
        return None if self.fault else self.last

    def _is_of_output(self, snapshot: Snapshot) -> bool:
        """Whether the output is that of this snapshot. A copy counts, if it kept its time: an
        output may be moved to another disk."""
        if snapshot.file is None or not self._layout.suffix:
            return self._layout.linked_version() == snapshot.run and self._layout.exists()
        try:
            found = file_stamp(self._layout.path)
        except OSError:
            return False
        return (found.size_bytes, found.mtime_ns) == (
            snapshot.file.size_bytes,
            snapshot.file.mtime_ns,
        )

    def is_published(self, snapshot: Snapshot) -> bool:
        """Whether the output is that of this snapshot, with all its files."""
        layout = self._layout
        if layout.suffix:
            try:
                return file_stamp(layout.path) == snapshot.file
            except OSError:
                return False
        return layout.linked_version() == snapshot.run and all(
            (layout.path / layout.part_name(number)).exists()
            for number in range(max(1, len(snapshot.parts)))
        )

    def write_pending(self, snapshot: Snapshot) -> None:
        """Records the snapshot that the following rename publishes."""
        _write_snapshot(self._pending_path, snapshot)

    def settle(self, snapshot: Snapshot) -> None:
        """Records, after the rename, that the snapshot is current and its changes undelivered."""
        if snapshot.has_changes:
            with storage_errors(self.undelivered_changes):
                if self.pending_changes.exists():
                    self._append_undelivered()
        _write_snapshot(self._path, snapshot)
        with storage_errors(self._pending_path):
            self._pending_path.unlink(missing_ok=True)

    def _append_undelivered(self) -> None:
        """Adds the changes of this commit to the undelivered ones, in one rename: a change may be
        delivered twice, but must not be lost."""
        if self.undelivered_changes.exists():
            with replaced(self.undelivered_changes, is_private=True) as file:
                for changes in (self.undelivered_changes, self.pending_changes):
                    with changes.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
            self.pending_changes.unlink()
        else:
            rename(self.pending_changes, self.undelivered_changes)


def file_stamp(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


class _Revision(Struct):
    revision: int = 0


def _read_snapshot(path: Path) -> tuple[Snapshot | None, str]:
    """The snapshot, or why there is none."""
    try:
        raw = path.read_bytes()
        revision = msgspec.json.decode(raw, type=_Revision).revision
        if revision != REVISION:
            return None, f"{path.name} has revision {revision}, not {REVISION}"
        return msgspec.json.decode(raw, type=Snapshot), ""
    except FileNotFoundError:
        return None, MISSING
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None, f"{path.name} is unreadable"


def _write_snapshot(path: Path, snapshot: Snapshot) -> None:
    with storage_errors(path), replaced(path, is_private=True) as file:
        file.write(msgspec.json.encode(snapshot) + b"\n")
