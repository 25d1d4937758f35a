"""The folder of a run beside its output: a manifest before the first call, and its failures.

<output>.run/lock
<output>.run/parts/...
<output>.run/runs/<run id>/manifest.json
<output>.run/runs/<run id>/journal            final failures, while the run is open
<output>.run/runs/<run id>/failures.jsonl     only if there are failures
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from pipeline.disk.durable import open_private, replaced, storage_errors, sync_folder
from pipeline.disk.json_lines import JsonLines
from pipeline.disk.output_path import run_folder
from pipeline.errors import StorageError
from pipeline.records import Answer, Document, Outcome
from pipeline.runs.failures import FailureJournal
from pipeline.runs.manifest import Manifest, end_manifest, runs_to_remove
from pipeline.text import printable

_YOUNG_SECONDS = 60
_NUMBER = re.compile(r"\d+")
MAX_REASONS = 1_000
"""Reasons of failures that are counted apart; a server may quote each input in its answer."""
_ADDRESS = re.compile(r"(?P<file>.*?)(?::(?P<line>\d+)|: row (?P<row>\d+))\Z", re.DOTALL)


def runs_of(output: str) -> dict[str, Manifest | None]:
    """The runs of this output by folder; None for an unreadable manifest.

    Folders without a manifest are left out: a kill left them before anything was paid.
    """
    found: dict[str, Manifest | None] = {}
    for path in sorted((run_folder(output) / "runs").glob("*/manifest.json")):
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, ValueError):  # damaged, or of another version
            found[path.parent.name] = None
        else:
            found[path.parent.name] = manifest if manifest.run == path.parent.name else None
    return found


def manifests(output: str) -> Iterator[dict[str, Any]]:
    """The manifests of this output as plain dicts, newest first; unreadable ones are skipped."""
    found: list[tuple[int, str, dict[str, Any]]] = []
    with suppress(OSError):
        for folder in (run_folder(output) / "runs").iterdir():
            with suppress(OSError, ValueError):
                manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=dict)
                number = manifest.get("number")
                found.append((number if isinstance(number, int) else 0, folder.name, manifest))
    for _, name, manifest in sorted(found, key=lambda each: each[:2], reverse=True):
        yield manifest | {"run": name}


def failures(output: str, run_id: str, identity: bytes) -> list[dict[str, Any]]:
    """The failures of this document in that run."""
    found: list[dict[str, Any]] = []
    name = identity.hex()
    path = run_folder(output) / "runs" / run_id / "failures.jsonl"
    with suppress(OSError):
        lines = JsonLines(path, dict[str, Any], containing=name.encode())
        found += (line for line in lines if line.get("identity") == name)
    return found


class RunRecord:
    """The folder of one run. Raises: StorageError if it cannot be written.

    The caller holds the lock of the run folder.
    """

    def __init__(self, output: str, manifest: Manifest) -> None:
        self.folder = run_folder(output) / "runs" / manifest.run
        self.manifest = manifest
        self._output = output
        self.failures_path = self.folder / "failures.jsonl"
        self.journal = FailureJournal(self.folder / "journal")
        self._failures: IO[bytes] | None = None
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        with storage_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.mkdir(exist_ok=True, mode=0o700)

    def begin(self) -> None:
        """Makes the manifest and its name durable; removes what killed runs left."""
        found = runs_of(self._output)
        with storage_errors(self.folder):
            self.failures_path.unlink(missing_ok=True)  # of an earlier try; it is written again
        if found.get(self.manifest.run) != self.manifest:
            self._write_manifest()
            with storage_errors(self.folder):
                runs = self.folder.parent
                for folder in (runs, runs.parent, runs.parent.parent):
                    sync_folder(folder)
        for name in found:
            self._tidy(self.folder.parent / name)
        for name in self._others() - found.keys() | {*runs_to_remove(found, self.manifest.run)}:
            shutil.rmtree(self.folder.parent / name, ignore_errors=True)

    def end(self, exit_code: int, rows_out: int | None = None) -> None:
        """Writes durably how the run ended, and removes the journal of a run that is over."""
        self.manifest = end_manifest(self.manifest, exit_code, rows_out)
        self._write_manifest()
        if self.manifest.state != "open":
            with suppress(StorageError):  # a leftover journal is harmless
                self.journal.discard()

    def _tidy(self, folder: Path) -> None:
        """Removes files that a kill left half written; a young file may be in use."""
        with suppress(OSError):
            for path in folder.glob("*.tmp"):
                if time.time() - path.stat().st_mtime > _YOUNG_SECONDS:
                    path.unlink()

    def _others(self) -> set[str]:
        with storage_errors(self.folder.parent):
            return {each.name for each in self.folder.parent.iterdir()} - {self.folder.name}

    def _write_manifest(self) -> None:
        """Replaces the manifest durably: a reader sees the old one or the new one."""
        path = self.folder / "manifest.json"
        raw = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2) + b"\n"
        with storage_errors(path), replaced(path, is_private=True) as file:
            file.write(raw)

    def isolated(self, document: Document) -> None:
        """Records a row that could not be read or cut."""
        self._write(document, {"reason": document.error})

    def failed(self, document: Document, position: int, outcome: Outcome) -> None:
        """Records a request without an answer."""
        failure, chunk = outcome.settled, outcome.request.chunk
        assert not isinstance(failure, Answer)
        self._write(
            document,
            {
                "chunk": position,
                "start_char": chunk.start_char,
                "end_char": chunk.end_char,
                "kind": failure.kind,
                "reason": failure.message,
                "attempts": failure.attempts,
            },
        )

    def _write(self, document: Document, what: dict[str, Any]) -> None:
        where = _ADDRESS.fullmatch(document.address)
        layout: dict[str, Any] = {"file": where["file"] if where else document.address}
        if where:
            name = "line" if where["line"] else "row"
            layout[name] = int(where[name])
        line = {"id": document.id, "identity": document.identity.hex(), **layout, **what}
        line["reason"] = printable(line["reason"] or "", 500)
        self._count_reason(f"{document.address}: {line['reason']}", line["reason"])
        with storage_errors(self.failures_path):
            if self._failures is None:
                self._failures = open_private(self.failures_path)
            self._failures.write(msgspec.json.encode(line) + b"\n")

    @property
    def commonest_failure(self) -> str:
        """The most frequent reason of failures so far, with the place of the first; or empty."""
        most = self._reasons.most_common(1)
        return self._examples[most[0][0]] if most else ""

    def _count_reason(self, example: str, reason: str) -> None:
        """Counts reasons that differ in numbers only as one."""
        kind = _NUMBER.sub("0", reason)
        if kind in self._examples or len(self._examples) < MAX_REASONS:
            self._reasons[kind] += 1
            self._examples.setdefault(kind, example)

    def close(self) -> None:
        """Makes the failures durable."""
        self.journal.close()
        file, self._failures = self._failures, None
        if file is not None:
            with storage_errors(self.failures_path), file:
                file.flush()
                os.fsync(file.fileno())
