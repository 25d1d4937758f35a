"""What a run leaves beside its output: a manifest before the first call, and its failures.

<output>.run/lock
<output>.run/parts/...
<output>.run/runs/<run id>/manifest.json
<output>.run/runs/<run id>/failures.jsonl     only where there are failures
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from pipeline.escape import printable
from pipeline.place import storing, sync_folder
from pipeline.records import Answer, Document, Outcome

_ADDRESS = re.compile(r"(?P<file>.*?)(?::(?P<line>\d+)|: row (?P<row>\d+))\Z", re.DOTALL)


def run_folder(output: str) -> Path:
    """Where the runs of this output keep their state."""
    return Path(f"{output.rstrip('/')}.run")


def new_run_id() -> str:
    """Sorts by time, unique without coordination; never part of a data file."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(3)


def manifests(output: str) -> Iterator[dict[str, Any]]:
    """What the runs of this output wrote before they began, the last one first."""
    with suppress(OSError):
        for folder in sorted((run_folder(output) / "runs").iterdir(), reverse=True):
            with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
                told = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=dict)
                yield told | {"run": folder.name}


def failures(output: str, run_id: str, identity: bytes) -> list[dict[str, Any]]:
    """What failed of this document in that run."""
    found: list[dict[str, Any]] = []
    name = identity.hex()
    with (
        suppress(OSError),
        (run_folder(output) / "runs" / run_id / "failures.jsonl").open("rb") as f,
    ):
        for line in f:
            if name.encode() in line:
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    told = msgspec.json.decode(line, type=dict)
                    if told.get("identity") == name:
                        found.append(told)
    return found


class RunRecord:
    """The folder of one run. Raises: StorageError where it cannot be written."""

    def __init__(self, output: str, run_id: str) -> None:
        self.folder = run_folder(output) / "runs" / run_id
        self.failures_path = self.folder / "failures.jsonl"
        self._failures: IO[bytes] | None = None
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Durable when it returns; a reader sees the old one or the new one."""
        path = self.folder / "manifest.json"
        temporary = path.with_suffix(".tmp")
        with storing(path):
            with temporary.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(self.folder)

    def isolated(self, document: Document) -> None:
        """A row that could not be read or cut."""
        self._write(document, {"reason": document.error})

    def failed(self, document: Document, position: int, outcome: Outcome) -> None:
        """A request without an answer."""
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
        place: dict[str, Any] = {"file": where["file"] if where else document.address}
        if where:
            name = "line" if where["line"] else "row"
            place[name] = int(where[name])
        told = {"id": document.id, "identity": document.identity.hex(), **place, **what}
        told["reason"] = printable(told["reason"] or "", 500)
        with storing(self.failures_path):
            if self._failures is None:
                self._failures = self.failures_path.open("wb")
            self._failures.write(msgspec.json.encode(told) + b"\n")

    def close(self) -> None:
        """Make the failures durable."""
        if self._failures is not None:
            with storing(self.failures_path), self._failures as file:
                file.flush()
                os.fsync(file.fileno())
