"""Checks of the paths of a job: an output that overwrites its input is refused before any row.

Job files may come from elsewhere, so their relative output must stay below the job file's folder.
A path on the command line may be anywhere.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.spec.keys import KeyLocations, shown
from pipeline.disk.durable import temporary_path
from pipeline.disk.output_path import (
    FILES,
    is_in_run_folder,
    is_within,
    output_fault,
    output_suffix,
    run_folder,
)
from pipeline.errors import UsageError
from pipeline.source.stores.table import STORES, is_remote, store_of

if TYPE_CHECKING:
    from jobs.spec.job import Job


def check_paths(job: Job, output_as_typed: str, locations: KeyLocations) -> None:
    """Refuses an output outside of its folder, and one that would overwrite or become the input.

    Reads the file system, but opens and changes nothing. An input directory counts with all its
    subfolders.
    """
    read, written, key = job.input.path, job.output.path, "output.path"
    for name, path in (("input.path", read), (key, written)):
        # Joining a path to a folder turns two slashes into one.
        if is_remote(path) and name == "input.path":
            if (fault := store_of(path).fault_of(path)) is not None:
                raise locations.wrong(name, fault)
        elif re.search(r"(?:^|/)([A-Za-z][A-Za-z0-9+.-]+):/", path):
            schemes = ", ".join(each for each in STORES if each != "http://")
            also = f", or begin with {schemes}" if name == "input.path" else ", not a URL"
            raise locations.wrong(name, f"must be a local path{also}")
    if written == "-":
        return
    try:
        _check_output(job, output_as_typed, locations)
        _check_name(Path(written))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise locations.wrong(key, "the name is too long for its files", "shorten it") from None
        raise locations.wrong(key, f"cannot be checked: {error.strerror}") from None


def _check_name(output: Path) -> None:
    """Raises: OSError where a file beside the output would have a name that is too long: before
    anything is paid."""
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    for name in (temporary_path(output).name, run_folder(output).name):
        with suppress(FileNotFoundError):
            (folder / name).lstat()


def check_changes(job: Job, path: str) -> None:
    """Refuses a file of changes inside of the input, the output or a run folder."""
    written = job.output.path
    if written == "-":
        raise UsageError("--changes: output `-` has no last commit", hint="use -o PATH")
    real, output = os.path.realpath(path), os.path.realpath(written)
    if output_suffix(path) != ".jsonl":
        raise UsageError(f"--changes: must be a file ending in .jsonl, got {shown(path)}")
    folders = [os.path.realpath(run_folder(written))]
    folders += [output] if job.output.format == "directory" else []
    inside = any(is_within(real, folder) for folder in folders)
    inside |= is_in_run_folder(Path(real))
    if real in (output, os.path.realpath(job.input.path)) or inside or Path(path).is_dir():
        raise UsageError(f"--changes: {shown(path)} is where the data of the job is")
    folder = next(parent for parent in Path(real).parents if parent.exists())
    probe = temporary_path(folder / Path(real).name)
    try:  # before any cost; root passes a check of permissions even if it cannot write
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--changes: {shown(path)} cannot be written ({error.strerror})") from None


def _check_output(job: Job, output_as_typed: str, locations: KeyLocations) -> None:
    read, written, key = job.input.path, job.output.path, "output.path"
    output, got = Path(written), f"got {shown(output_as_typed)}"
    data = output_suffix(output)
    slash = output_as_typed.endswith("/")
    if output.name in ("", "..", *FILES):
        raise locations.wrong(key, f"must end in a name, {got}")
    if (data and slash) or (output.suffix and not data and not slash):
        hint = None if data else "a directory with a dot in its name needs a slash at its end"
        raise locations.wrong(
            key, f"must end in .parquet or .jsonl, or be a directory, {got}", hint
        )
    real = os.path.join(os.path.realpath(output.parent), output.name)  # noqa: PTH118
    typed = locations.on_command_line(key) or output_as_typed.startswith("/")
    if not typed and not is_within(real, os.path.realpath(job.folder)):
        raise locations.wrong(key, f"leaves the folder of the job file, {got}", "use -o PATH")
    source = None if read == "-" or is_remote(read) else read
    fault = output_fault(output, source, shown=shown(read), got=got)
    if fault is not None and fault.concerns_input:
        raise locations.refuse(f"output.path {fault.problem}", key, "input.path")
    if fault is not None:
        raise locations.wrong(key, fault.problem)
