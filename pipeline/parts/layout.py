"""The paths of an output: its run folder, its parts, and the rename that publishes it.

This module rejects an unusable path before any money is spent. Only it writes under the output's
own name, so that the output is always complete.
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
from pipeline.source.stores.table import is_remote
from pipeline.text import shown


class OutputLayout:
    """The paths of one run's output, and the operations that publish it."""

    def __init__(self, output: str, run_id: str) -> None:
        self.path = Path(output)
        self.suffix = output_suffix(output)
        self.run_folder = run_folder(output)
        self.parts = self.run_folder / "parts"
        self.part_suffix = self.suffix or ".parquet"
        self.version = self.run_folder / "versions" / run_id
        self.temporary = temporary_path(self.path)

    def part_path(self, part: int) -> Path:
        """The path under which a part is written; a finished part is named by its hash."""
        return self.parts / f"{part:05d}{self.part_suffix}"

    def part_name(self, part: int) -> str:
        """The name of a part in a directory output."""
        return f"part-{part:05d}.parquet"

    def prepare(self, input_path: str, inputs: Sequence[str]) -> None:
        """Checks before any call that the commit can succeed, makes the run folder, and removes
        files that a killed run left.

        `input_path` is the input's path as in the job file, `inputs` are its files.
        """
        path = self.path
        with storage_errors(path):
            source = None if is_remote(input_path) else input_path
            if fault := output_fault(path, source, inputs, shown=shown(input_path)):
                raise UsageError(f"{shown(str(path))}: output.path {fault.problem}")
            if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
                raise UsageError(
                    f"{shown(str(path))}: the folder was not created by textmill",
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
                self.run_folder.chmod(0o755)  # the target of the output's link must be readable
                self.version.parent.mkdir(exist_ok=True)
                self.sweep_versions()

    def exists(self) -> bool:
        """Whether the output exists."""
        return self.path.exists()

    def is_published(self, *, is_first: bool) -> bool:
        """Whether something is under the output's name that a commit would replace: also a link
        that leads nowhere. Before the first commit an empty file or folder is none."""
        path = self.path
        if path.is_symlink() or (path.is_dir() and any(path.iterdir())):
            return True
        return path.is_file() and not (is_first and path.stat().st_size == 0)

    def linked_version(self) -> str | None:
        """The version that a directory output links to; None where there is no such link."""
        return self.path.readlink().name if self.path.is_symlink() and self._is_ours() else None

    def published(self) -> list[Path]:
        """The files of the current output."""
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        return [file for file in files if file.is_file()]

    def switch(self) -> None:
        """Points a directory output at this run's version and removes older ones."""
        previous = self.path.readlink().name if self.path.is_symlink() else None
        with storage_errors(self.path):
            sync_folder(self.version)
            sync_folder(self.version.parent)
            self.temporary.symlink_to(Path(self.run_folder.name, "versions", self.version.name))
            if self.path.is_dir() and not self.path.is_symlink():
                self.path.rmdir()  # it is empty; a link cannot be renamed onto it
            rename(self.temporary, self.path)
        for old in self.version.parent.iterdir():
            if old.name not in (self.version.name, previous):
                shutil.rmtree(old, ignore_errors=True)

    def link_part(self, part: Path, target: Path) -> None:
        """Links a finished part into the version, or copies it where links do not work."""
        with storage_errors(target):
            try:
                target.hardlink_to(part)
            except OSError:  # not every file system has hard links
                shutil.copyfile(part, target)
                with target.open("rb") as file:
                    os.fsync(file.fileno())

    def clean(self) -> None:
        """Removes unfinished files; the next run can reuse finished parts."""
        with suppress(OSError):
            self.temporary.unlink(missing_ok=True)
        with suppress(OSError):
            for unfinished in self.parts.glob("*.tmp"):
                unfinished.unlink(missing_ok=True)

    def sweep_versions(self) -> None:
        """Removes versions of a directory output that killed runs left: all but the linked one and
        the newest other, which a reader may still have open."""
        linked = self.linked_version()
        with suppress(OSError):
            others = [each for each in self.version.parent.iterdir() if each.name != linked]
            for old in sorted(others, key=lambda each: each.stat().st_mtime_ns)[:-1]:
                shutil.rmtree(old, ignore_errors=True)

    def sweep(self, names: Collection[str]) -> None:
        """Removes all parts except those of these names (without suffix)."""
        with suppress(OSError):
            for file in self.parts.iterdir():
                if file.stem not in names:
                    file.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        return self.path.readlink().parent == Path(self.run_folder.name, "versions")
