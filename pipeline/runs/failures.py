"""The final failures of an open run, so that a resumed run writes the same rows as an uninterrupted
one.

The cache keeps answers, but not failures, because the next run retries them. They are in the run's
own folder, one line each: a checksum, then the record. A line that a crash cut or a disk damaged is
ignored, and its request is sent again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.disk.durable import replaced, storage_errors, sync_folder
from pipeline.records import Failure

ALL = "all"
"""All classes of failures, for `drop`."""


class FailureJournal:
    """The failures of one run, by request key. Calls block: use it from one thread at a time.

    Raises: StorageError if the file cannot be read or written.
    Cost: one write and one sync for each `put_many`; nothing is held between calls.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def load(self) -> dict[bytes, Failure]:
        """The failures by key; of a key that was put twice, the last one.

        Invariant: after any crash, every failure whose `put_many` had returned is included.
        """
        found: dict[bytes, Failure] = {}
        with storage_errors(self.path):
            if not self.path.exists():
                return found
            with self.path.open("rb") as file:
                for line in file:
                    if (record := _decode_line(line)) is not None:
                        key, failure = record
                        found[key] = failure
        return found

    def put_many(self, failures: Sequence[tuple[bytes, Failure]]) -> None:
        """Writes these failures durably."""
        if not failures:
            return
        raw = b"".join(_encode_line(key, failure) for key, failure in failures)
        with storage_errors(self.path):
            descriptor = self._open()
            while raw:
                raw = raw[os.write(descriptor, raw) :]
            os.fsync(descriptor)

    def drop(self, kind: str) -> int:
        """Removes the failures of this class, so that they are retried. Returns: how many."""
        before = self.load()
        kept = {key: f for key, f in before.items() if kind not in (ALL, f.kind)}
        if len(kept) == len(before):
            return 0
        self.close()
        with storage_errors(self.path), replaced(self.path, is_private=True) as file:
            file.writelines(_encode_line(key, failure) for key, failure in kept.items())
        return len(before) - len(kept)

    def discard(self) -> None:
        """Deletes the journal of a run that is over."""
        self.close()
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; all failures in it are durable already."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")  # ends a line that a crash cut
            sync_folder(self.path.parent)
        return self._descriptor


def _encode_line(key: bytes, failure: Failure) -> bytes:
    # ASCII only: a message may hold half a surrogate pair, which no other encoding takes.
    body = json.dumps([key.hex(), failure.kind, failure.message, failure.attempts]).encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _decode_line(line: bytes) -> tuple[bytes, Failure] | None:
    checksum, _, body = line.removesuffix(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        key, kind, message, attempts = json.loads(body)
        return bytes.fromhex(key), Failure(kind, message, attempts)
    except (ValueError, TypeError):
        return None
