"""Input files of this machine."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.disk.output_path import is_in_run_folder
from pipeline.errors import DescriptorError, InputError, TextmillError, UsageError
from pipeline.source.partitions import is_partition
from pipeline.source.stores.table import Fingerprint
from pipeline.text import reason, shown

READ_AHEAD_BYTES = 1 << 20


def fault_of(path: str) -> str | None:
    """None: any path may be that of a local file."""
    return None


def list_files(path: str) -> tuple[list[str], bool]:
    """The files that `path` (a file, a folder or a glob) names, sorted; and whether it is a folder.
    Raises: UsageError where it is something else."""
    local = Path(path)
    if local.is_dir():
        return sorted(f"{path.rstrip('/')}/{below}" for below in _below(local)), True
    if local.exists() or not glob.has_magic(path):
        _check(path)
        return [path], False
    found = (name for name in _glob(path) if not Path(name).is_dir())
    if ".run/" not in path:  # what runs leave beside their outputs is no input, unless it is named
        found = (n for n in found if ".run/" not in n or not is_in_run_folder(Path(n)))
    return sorted(found), False


def fingerprints(paths: Sequence[str]) -> list[Fingerprint | None]:
    """The `stat` figures of each file; None where it does not exist. Raises: UsageError where one
    is no regular file."""
    found: list[Fingerprint | None] = []
    for path in paths:
        try:
            status = _check(path)
        except UsageError:
            if Path(path).exists():
                raise
            found.append(None)
        else:
            found.append(
                Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            )
    return found


@contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """The file's bytes from its beginning, without a buffer."""
    with Path(path).open("rb", buffering=0) as raw:
        yield raw


def seekable(path: str) -> Any:
    """The path itself: Parquet readers open it."""
    return path


def raw_file(path: str) -> Any:
    """The open file."""
    return Path(path).open("rb")


def refusal(path: str, error: BaseException, section: str = "") -> TextmillError:
    """The error for a file that could not be read."""
    if isinstance(error, OSError) and error.errno in DescriptorError.errnos:
        return DescriptorError(shown(path))
    place = f"{shown(path)}: {section} " if section else f"{shown(path)}: "
    return InputError(f"{place}cannot be read ({reason(error)})")


def _check(path: str) -> os.stat_result:
    """The figures of a regular file. Raises: UsageError where there is none."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{shown(path)}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read ({reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{shown(path)}: not a regular file", hint="pipe it in and read `-`")
    return status


def _below(folder: Path) -> Iterator[str]:
    """The names in a folder, and those in its partitions."""
    for entry in folder.iterdir():
        if is_partition(entry.name) and entry.is_dir():
            yield from (f"{entry.name}/{below}" for below in _below(entry))
        else:
            yield entry.name


def _glob(path: str) -> list[str]:
    return glob.glob(path, recursive=True)  # noqa: PTH207 (keeps the path as the user wrote it)
