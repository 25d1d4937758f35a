"""Where a job may read and write: an output that overwrites its input is found before any row is.

Job files are data that may come from elsewhere, so a relative output stays below the job file's
folder; what a person types on the command line may go anywhere.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.spec.keys import NOT_YET, KeyLocations, shown
from pipeline.disk.durable import temporary_path
from pipeline.errors import UsageError
from pipeline.source.files import is_s3

if TYPE_CHECKING:
    from jobs.spec.job import Job


def check_paths(job: Job, output_as_typed: str, locations: KeyLocations) -> None:
    """Refuses an output that would leave its place, or destroy or become the input.

    Looks at the file system, opens and changes nothing. An input directory is taken as read at
    any depth.
    """
    read, written, key = job.input.path, job.output.path, "output.path"
    for name, path in (("input.path", read), (key, written)):
        # One slash is left of two where the path was joined to a folder.
        if is_s3(path) and name == "input.path":
            check_bucket(path, locations)
        elif scheme := re.search(r"(?:^|/)([A-Za-z][A-Za-z0-9+.-]+):/", path):
            later = scheme[1].lower() == "hf" and name == "input.path"
            if later:
                raise locations.refuse(f"{name} = {scheme[1]}://... {NOT_YET}", name)
            raise locations.wrong(name, "must be a path of this machine, not a URL")
    if written == "-":
        return
    try:
        _check_output(job, output_as_typed, locations)
    except OSError as error:
        raise locations.wrong(key, f"cannot be looked at: {error.strerror}") from None


def check_changes(job: Job, path: str) -> None:
    """Refuses a file of changes that would stand where the data is."""
    written = job.output.path
    if written == "-":
        raise UsageError("--changes: output `-` has no last commit", hint="give -o a path")
    real, output = os.path.realpath(path), os.path.realpath(written)
    if not path.endswith(".jsonl"):
        raise UsageError(f"--changes: must be a file ending in .jsonl, got {shown(path)}")
    folders = [os.path.realpath(f"{written}.run")]
    folders += [output] if job.output.format == "directory" else []
    inside = any(_within_folder(real, folder) for folder in folders)
    inside |= any(
        (parent / "lock").exists() for parent in Path(real).parents if parent.suffix == ".run"
    )
    if real in (output, os.path.realpath(job.input.path)) or inside or Path(path).is_dir():
        raise UsageError(f"--changes: {shown(path)} is where the job's data lies")
    folder = next(each for each in Path(real).parents if each.exists())
    probe = temporary_path(folder / Path(real).name)
    try:  # before anything is paid; root may write where no file can be
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--changes: {shown(path)} cannot be written ({error.strerror})") from None


def check_bucket(path: str, locations: KeyLocations) -> None:
    """Refuses an `s3://` path that names no object, or would carry a key."""
    from pipeline.source.s3 import fault_of

    if (fault := fault_of(path)) is not None:
        raise locations.wrong("input.path", fault)


def _check_output(job: Job, output_as_typed: str, locations: KeyLocations) -> None:
    read, written, key = job.input.path, job.output.path, "output.path"
    output, got = Path(written), f"got {shown(output_as_typed)}"
    data = output.suffix in (".parquet", ".jsonl")
    slash = output_as_typed.endswith("/")
    if output.name in ("", "..", ".parquet", ".jsonl"):
        raise locations.wrong(key, f"must end in a name, {got}")
    if (data and slash) or (output.suffix and not data and not slash):
        hint = (
            None if data else "a directory with a dot in its name is given with a slash at its end"
        )
        raise locations.wrong(
            key, f"must end in .parquet or .jsonl, or be a directory, {got}", hint
        )
    real = os.path.join(os.path.realpath(output.parent), output.name)  # noqa: PTH118
    typed = locations.on_command_line(key) or output_as_typed.startswith("/")
    if not typed and not _within_folder(real, os.path.realpath(job.folder)):
        raise locations.wrong(key, f"leaves the folder of the job file, {got}", "give it with -o")
    if output.is_symlink():
        versions = os.path.realpath(f"{real}.run/versions")
        if data or not _within_folder(os.path.realpath(output), versions):
            raise locations.wrong(key, f"is a symbolic link, {got}")
    elif output.exists() and not (output.is_file() if data else output.is_dir()):
        raise locations.wrong(key, f"exists and is no {'file' if data else 'directory'}, {got}")
    if _in_run_folder(Path(real)) or _within_folder(real, os.path.realpath(f"{real}.run")):
        raise locations.wrong(key, f"lies in a run folder, {got}")
    if read == "-" or is_s3(read):
        return
    both, source = (key, "input.path"), shown(read)
    if os.path.realpath(read) == real or any(_same(output, path) for path in _files(read, output)):
        raise locations.refuse(f"output.path is the input, {source}", *both)
    matched = glob.glob(read, recursive=True) if glob.has_magic(read) else [read]  # noqa: PTH207
    if not data and any(_within_folder(os.path.realpath(path), real) for path in matched):
        raise locations.refuse(f"output.path is a directory that holds the input, {source}", *both)
    if _would_be_read(Path(real), read):
        problem = f"output.path lies where input.path = {source} would read it the next time, {got}"
        raise locations.refuse(problem, *both)


def _files(path: str, output: Path) -> Iterator[str]:
    """The files that an input path names now; none while there is no output to compare with."""
    if not output.exists():
        return
    yield path
    if _is_folder(path):
        for folder, _, names in os.walk(path):
            yield from (f"{folder}/{name}" for name in names)
    elif glob.has_magic(path):
        yield from glob.iglob(path, recursive=True)  # noqa: PTH207 - it may be absolute


def _would_be_read(output: Path, path: str) -> bool:
    """True where a resolved `output` would be among the inputs, though it need not exist yet."""
    if _is_folder(path):
        return _within_folder(str(output), os.path.realpath(path))
    if not glob.has_magic(path):
        return False
    parts = Path(path).parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    base = os.path.realpath(Path(*parts[:fixed]))
    below = Path(os.path.relpath(output, base)).parts
    # Links below the fixed part lead elsewhere: compare the folders that are matched now, too.
    folders = glob.iglob(str(Path(path).parent), recursive=True)  # noqa: PTH207
    return _matches(below, parts[fixed:]) or (
        fnmatchcase(output.name, parts[-1])
        and str(output.parent) in {os.path.realpath(folder) for folder in folders}
    )


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """True where a path, or a folder around it, fits a glob pattern, both given in parts.

    Cost: O(parts x pattern), whatever the number of `**`.
    """

    def closed(reached: set[int]) -> set[int]:
        for at in range(len(pattern)):
            if at in reached and pattern[at] == "**":
                reached.add(at + 1)
        return reached

    reached = closed({0})
    for part in parts:
        if len(pattern) in reached:
            break
        stay = {at for at in reached if pattern[at] == "**"}
        reached = closed(stay | {at + 1 for at in reached - stay if fnmatchcase(part, pattern[at])})
    return len(pattern) in reached


def _within_folder(path: str, folder: str) -> bool:
    """True where the path is the folder or lies in it; both are resolved."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _in_run_folder(path: Path) -> bool:
    """True where a folder around the path is one that a run keeps its parts in."""
    return any(
        folder.suffix == ".run"
        and (folder.stem.endswith((".parquet", ".jsonl")) or (folder / "runs").is_dir())
        for folder in path.parents
    )


def _is_folder(path: str) -> bool:
    """True for a directory; an input that cannot be looked at is for the survey to report."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _same(one: Path, other: str) -> bool:
    """True for one file under two names, hard and symbolic links included."""
    try:
        return one.samefile(other)
    except OSError:
        return False
