"""Where an output goes: the folder of its run, the lock on it, and the rename that publishes.

A path is refused here before any money is spent, and only here is anything put under the output's
own name, so that what stands there is always whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.disk.durable import rename, storage_errors, sync_folder, temporary_path
from pipeline.disk.output_path import output_fault, output_suffix, run_folder
from pipeline.errors import UsageError
from pipeline.source.files import is_s3
from pipeline.text import shown


class OutputLayout:
    """Where the output goes: its run folder, its parts, and how it is published."""

    def __init__(self, output: str, run_id: str) -> None:
        self.path = Path(output)
        self.suffix = output_suffix(output)
        self.run_folder = run_folder(output)
        self.parts = self.run_folder / "parts"
        self.part_suffix = self.suffix or ".parquet"
        self.version = self.run_folder / "versions" / run_id
        self.temporary = temporary_path(self.path)

    def part_path(self, part: int) -> Path:
        """Where a part is written; finished, it is named by its hash."""
        return self.parts / f"{part:05d}{self.part_suffix}"

    def part_name(self, part: int) -> str:
        """The name of a part in a directory output."""
        return f"part-{part:05d}.parquet"

    def prepare(self, given: str, inputs: Sequence[str]) -> None:
        """Refuses before any call what would fail at the commit, and clears what a killed run left.

        `given` is the input's path as the job names it, `inputs` are its files.
        """
        path = self.path
        with storage_errors(path):
            source = None if is_s3(given) else given
            if fault := output_fault(path, source, inputs, shown=shown(given)):
                raise UsageError(f"{shown(str(path))}: output.path {fault.problem}")
            if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
                raise UsageError(
                    f"{shown(str(path))}: a folder that textmill did not make",
                    hint="name a folder that does not exist yet, or an empty one",
                )
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(path.parent):
            self.clean()
            self.temporary.touch(exist_ok=False)
            self.temporary.unlink()
        with storage_errors(self.parts):
            self.run_folder.mkdir(mode=0o700, exist_ok=True)
            self.parts.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.suffix == "":
                self.run_folder.chmod(0o755)  # what the output's link leads to must be readable
                self.version.parent.mkdir(exist_ok=True)

    def exists(self) -> bool:
        """Whether an output stands."""
        return self.path.exists()

    def linked_version(self) -> str | None:
        """The version that a directory output links to."""
        return self.path.readlink().name if self.path.is_symlink() and self._is_ours() else None

    def published(self) -> list[Path]:
        """The files of the output that stands."""
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        return [file for file in files if file.is_file()]

    def switch(self) -> None:
        """Points a directory output at this run's version and removes older ones."""
        before = self.path.readlink().name if self.path.is_symlink() else None
        with storage_errors(self.path):
            sync_folder(self.version)
            sync_folder(self.version.parent)
            self.temporary.symlink_to(Path(self.run_folder.name, "versions", self.version.name))
            if self.path.is_dir() and not self.path.is_symlink():
                self.path.rmdir()  # an empty one: a link cannot be renamed onto it
            rename(self.temporary, self.path)
        for old in self.version.parent.iterdir():
            if old.name not in (self.version.name, before):
                shutil.rmtree(old, ignore_errors=True)

    def link_part(self, part: Path, target: Path) -> None:
        """Puts a finished part into the version without writing it again."""
        with storage_errors(target):
            try:
                target.hardlink_to(part)
            except OSError:  # not every file system has hard links
                shutil.copyfile(part, target)
                with target.open("rb") as file:
                    os.fsync(file.fileno())

    def clean(self) -> None:
        """Removes what is not finished; finished parts are of use to the next run."""
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)
        with suppress(OSError):
            for half in self.parts.glob("*.tmp"):
                half.unlink(missing_ok=True)

    def sweep(self, names: Collection[str]) -> None:
        """After a commit: removes the parts that are not of these names (without suffix)."""
        with suppress(OSError):
            for each in self.parts.iterdir():
                if each.stem not in names:
                    each.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        return self.path.readlink().parent == Path(self.run_folder.name, "versions")
