"""The path of an output: its run folder, and checks against the input's path.

The paths alone show whether an output would overwrite its input or become part of it. So such a
job is rejected when it is loaded, before any row is read, and again when the run knows the input's
files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.disk.globbing import matches

_FORMATS: dict[str, Literal[".parquet", ".jsonl"]] = {
    ".parquet": ".parquet",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
    ".jsonlines": ".jsonl",
}
FILES = tuple(_FORMATS)
"""The suffixes of output files."""


class Fault(NamedTuple):
    """Why an output cannot be written; `problem` continues a message after `output.path`."""

    problem: str
    concerns_input: bool = False


def output_suffix(path: str | Path) -> Literal[".parquet", ".jsonl", ""]:
    """The format of an output file, as the usual suffix of it; empty for a directory."""
    return _FORMATS.get(Path(path).suffix, "")


FIRST_PART = "part-00000.parquet"
"""The name of the first file of a directory output."""


def run_folder(output: str | Path) -> Path:
    """The folder that holds the state of this output's runs."""
    return Path(f"{Path(output)}.run")


def is_in_run_folder(path: Path) -> bool:
    """Whether a folder above the path is a run folder."""
    return any(
        folder.suffix == ".run"
        and (
            output_suffix(folder.stem) != ""
            or any((folder / name).exists() for name in ("runs", "lock"))
        )
        for folder in path.parents
    )


def is_within(path: str, folder: str) -> bool:
    """Whether a path is the folder or is inside it; both are resolved."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def output_fault(
    output: Path, source: str | None, files: Sequence[str] = (), *, shown: str, got: str = ""
) -> Fault | None:
    """Why the output cannot be written, or None; reads the file system and changes nothing.

    `source` is the input's path as in the job file, None where it is not local; `shown` is its form
    in messages; `files` are the input's files, where they are known. `got` ends the messages that
    are about the output. An input directory counts as read at any depth.
    Raises: OSError where the output's path cannot be read.
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
        return Fault(f"is in a run folder{got}")
    if source is None:
        return None
    if os.path.realpath(source) == real or any(
        _is_same_file(output, path) for path in (*files, *_input_files(source, output))
    ):
        return Fault(f"is the input, {shown}", concerns_input=True)
    if not is_file:
        matched = _glob(source) if glob.has_magic(source) else [source]
        folders = (real, os.path.realpath(output))
        inputs = map(os.path.realpath, (*matched, *files))
        if any(is_within(path, folder) for path in inputs for folder in folders):
            return Fault(f"is a directory that holds the input, {shown}", concerns_input=True)
    if _would_be_read(Path(real) if is_file else Path(real, FIRST_PART), source):
        problem = f"is where input.path = {shown} would read it the next time{got}"
        return Fault(problem, concerns_input=True)
    return None


def _input_files(path: str, output: Path) -> Iterator[str]:
    """The files that an input path names now; none if there is no output to compare with."""
    if not output.exists():
        return
    yield path
    if _is_folder(path):
        for folder, _, names in os.walk(path):
            yield from (f"{folder}/{name}" for name in names)
    elif glob.has_magic(path):
        yield from _glob(path)


def _would_be_read(file: Path, path: str) -> bool:
    """Whether a resolved file of the output, which need not exist, would be among the inputs."""
    if _is_folder(path):
        return is_within(str(file), os.path.realpath(path))
    if not glob.has_magic(path):
        return False
    parts = Path(path).parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    base = os.path.realpath(Path(*parts[:fixed]))
    if is_within(str(file), base) and matches(file.relative_to(base).parts, parts[fixed:]):
        return True
    # Links and `..` below the fixed part lead elsewhere: compare the folders that match now, too.
    return matches([file.name], [parts[-1]]) and str(file.parent) in map(
        os.path.realpath, _glob(str(Path(path).parent))
    )


def _glob(path: str) -> Iterator[str]:
    return glob.iglob(path, recursive=True)  # noqa: PTH207 - it may be absolute


def _is_folder(path: str) -> bool:
    """Whether it is a directory; False for an unreadable path, which the survey reports."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _is_same_file(output: Path, path: str) -> bool:
    """Whether both paths name one file, also through hard or symbolic links."""
    try:
        return output.samefile(path)
    except OSError:
        return False
