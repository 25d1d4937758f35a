"""The final failures of an open run, so that a resumed run writes the same rows as one that was not
interrupted.

An answer is kept for good in the cache; a failure must not be, because the next run tries it again.
So it lies in the run's own folder, one line each: a checksum, then the record. A line that a crash
tore, or a disk damaged, is no failure: its request is sent again.
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
"""Every class of failure, for `drop`."""


class FailureJournal:
    """The failures of one run, by request key. Calls block: use it from one thread at a time.

    Raises: StorageError where the file cannot be read or written.
    Cost: one write and one sync for each `put_many`; nothing is held between calls.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def load(self) -> dict[bytes, Failure]:
        """The failures that stand; where a key was put twice, the last one.

        Invariant: after any crash, every failure whose `put_many` had returned is among them.
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
        """Return when all of these are durable."""
        if not failures:
            return
        raw = b"".join(_encode_line(key, failure) for key, failure in failures)
        with storage_errors(self.path):
            descriptor = self._opened()
            while raw:
                raw = raw[os.write(descriptor, raw) :]
            os.fsync(descriptor)

    def drop(self, kind: str) -> int:
        """Forget the failures of this class, so that they are tried again. Returns: how many."""
        before = self.load()
        kept = {key: f for key, f in before.items() if kind not in (ALL, f.kind)}
        if len(kept) == len(before):
            return 0
        self.close()
        with storage_errors(self.path), replaced(self.path, is_private=True) as file:
            file.writelines(_encode_line(key, failure) for key, failure in kept.items())
        return len(before) - len(kept)

    def discard(self) -> None:
        """The run is over: its failures are of no use to another one."""
        self.close()
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Everything that was put is durable already."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _opened(self) -> int:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o600)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")  # ends the line that a crash tore
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
