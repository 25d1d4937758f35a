"""Durable writes: what the system refuses becomes a StorageError, files are private, names are
synced."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import StorageError
from pipeline.text import reason, shown


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the system refuses into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{shown(str(path))}: cannot be written ({reason(error)})",
            hint="free space and run again; every answer so far is kept" if is_full else None,
        ) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_private(path: Path) -> IO[bytes]:
    """The file, opened anew for writing; who may read the output need not read the run's state."""
    return open(path, "wb", opener=_open_private)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
