"""The path of an output: what is written under it, and what it must not be to its input.

An output that overwrites its input, or becomes a part of it, is found by the paths alone. So a job
that would do that is refused when it is read, before any row is, and again when the run knows the
input's files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.disk.globbing import matches

_FILES = (".parquet", ".jsonl")


class Fault(NamedTuple):
    """Why an output cannot be written: `problem` follows the words `output.path`."""

    problem: str
    concerns_input: bool = False


def output_suffix(path: str | Path) -> Literal[".parquet", ".jsonl", ""]:
    """How an output's file ends; empty for a directory."""
    match Path(path).suffix:
        case ".parquet":
            return ".parquet"
        case ".jsonl":
            return ".jsonl"
        case _:
            return ""


def run_folder(output: str | Path) -> Path:
    """The folder in which the runs of this output keep their state."""
    return Path(f"{Path(output)}.run")


def is_in_run_folder(path: Path) -> bool:
    """Whether a folder around the path keeps the state of runs."""
    return any(
        folder.suffix == ".run"
        and (folder.stem.endswith(_FILES) or any((folder / n).exists() for n in ("runs", "lock")))
        for folder in path.parents
    )


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder or lies in it; both are resolved."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def output_fault(
    output: Path, source: str | None, files: Sequence[str] = (), *, shown: str, got: str = ""
) -> Fault | None:
    """Why the output cannot be written, or None; looks at the file system and changes nothing.

    `source` is the input's path as the job names it, None where it is none of this machine; `shown`
    is how messages write it; `files` are those that it stands for, where they are known. `got` ends
    the messages that are about the output. An input directory is taken as read at any depth.
    Raises: OSError where the output's path cannot be looked at.
    """
    is_file, got = bool(output_suffix(output)), got and f", {got}"
    real = os.path.join(os.path.realpath(output.parent), output.name)  # noqa: PTH118
    if output.is_symlink():
        versions = os.path.realpath(run_folder(real) / "versions")
        if is_file or not is_within(os.path.realpath(output), versions):
            return Fault(f"is a symbolic link{got}")
    elif output.exists() and not (output.is_file() if is_file else output.is_dir()):
        return Fault(f"exists and is no {'file' if is_file else 'directory'}{got}")
    if is_in_run_folder(Path(real)) or is_within(real, os.path.realpath(run_folder(real))):
        return Fault(f"lies in a run folder{got}")
    if source is None:
        return None
    if os.path.realpath(source) == real or any(
        _is_same_file(output, path) for path in (*files, *_input_files(source, output))
    ):
        return Fault(f"is the input, {shown}", concerns_input=True)
    if not is_file:
        named = _glob(source) if glob.has_magic(source) else [source]
        folders = (real, os.path.realpath(output))
        inputs = map(os.path.realpath, (*named, *files))
        if any(is_within(path, folder) for path in inputs for folder in folders):
            return Fault(f"is a directory that holds the input, {shown}", concerns_input=True)
    if _would_be_read(Path(real), source):
        problem = f"lies where input.path = {shown} would read it the next time{got}"
        return Fault(problem, concerns_input=True)
    return None


def _input_files(path: str, output: Path) -> Iterator[str]:
    """The files that an input path names now; none while there is no output to compare with."""
    if not output.exists():
        return
    yield path
    if _is_folder(path):
        for folder, _, names in os.walk(path):
            yield from (f"{folder}/{name}" for name in names)
    elif glob.has_magic(path):
        yield from _glob(path)


def _would_be_read(output: Path, path: str) -> bool:
    """Whether a resolved `output` would be among the inputs, though it need not exist yet."""
    if _is_folder(path):
        return is_within(str(output), os.path.realpath(path))
    if not glob.has_magic(path):
        return False
    parts = Path(path).parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    base = os.path.realpath(Path(*parts[:fixed]))
    below = Path(os.path.relpath(output, base)).parts
    # Links below the fixed part lead elsewhere: compare the folders that are matched now, too.
    return matches(below, parts[fixed:], or_folder=True) or (
        matches([output.name], [parts[-1]])
        and str(output.parent) in map(os.path.realpath, _glob(str(Path(path).parent)))
    )


def _glob(path: str) -> Iterator[str]:
    return glob.iglob(path, recursive=True)  # noqa: PTH207 - it may be absolute


def _is_folder(path: str) -> bool:
    """Whether it is a directory; an input that cannot be looked at is for the survey to report."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _is_same_file(one: Path, other: str) -> bool:
    """Whether it is one file under two names, hard and symbolic links included."""
    try:
        return one.samefile(other)
    except OSError:
        return False
