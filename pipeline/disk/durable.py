"""Durable writes: atomic replacement, synced folders, private files, errors on one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from pipeline.errors import DescriptorError, StorageError, TextmillError, UsageError
from pipeline.text import printable, reason, shown


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of a write into the error of `system_error`, with this path."""
    try:
        yield
    except OSError as error:
        raise system_error(shown(str(path)), error) from error


def system_error(address: str, error: OSError, problem: str = "cannot be written") -> TextmillError:
    """The error of a path that the system refuses: StorageError, or UsageError for its name."""
    if error.errno in DescriptorError.errnos:
        return DescriptorError(address)
    message = f"{address}: {problem} ({reason(error)})"
    if error.errno == errno.ENAMETOOLONG:
        # The whole of such a name helps nobody.
        return UsageError(f"{printable(address, 100)}: the name is too long", hint="shorten it")
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free space and run again; every answer so far is kept" if is_full else None
    return StorageError(message, hint=hint)


def descriptors_are_used_up() -> bool:
    """Whether no file can be opened now: SQLite and name servers do not say why they fail."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in DescriptorError.errnos
    return False


def temporary_path(path: Path) -> Path:
    """The path under which a file is written before it is renamed to `path`.

    It is in the same folder, so that the rename stays in one file system; the same for every
    writer, so that the next one removes what a kill left; and hidden, so that an input folder does
    not include it.
    """
    return path.with_name(f".{path.name}.textmill.tmp")


@contextmanager
def replaced(path: Path, *, is_private: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` when the block ends; a private one has mode 0600.

    Invariant: a reader, also after a crash, sees the complete old file or the complete new one;
        the new one is durable when the block has ended. An error leaves the old one unchanged.
    Raises: OSError.
    """
    temporary = temporary_path(path)
    try:
        with _create(temporary, is_private=is_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def rename(source: Path, target: Path) -> None:
    """Renames a file or a link; the new name is durable when this returns."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_private(path: Path) -> IO[bytes]:
    """The file, emptied and opened for writing, readable by its owner only: readers of the output
    need not read the run's state."""
    return open(path, "wb", opener=_open_private)


def _create(path: Path, *, is_private: bool) -> BinaryIO:
    """A new file. It is created exclusively, so that a link under this name is not followed and the
    mode of a leftover file is not inherited."""
    opener = _open_private if is_private else None
    try:
        return open(path, "xb", opener=opener)
    except FileExistsError:
        path.unlink()
        return open(path, "xb", opener=opener)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
