"""The commit: publishes finished parts under the output's name, in one rename.

A directory output is a version folder of links to the parts; a file is assembled from them. If no
part changed, the output is left as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from pipeline.disk.durable import storage_errors
from pipeline.disk.output_path import output_suffix
from pipeline.errors import StateError, StorageError
from pipeline.parts.index import PartIndex, sha256_of, stamp_of, write_index
from pipeline.parts.layout import OutputLayout
from pipeline.parts.part_file import PartFile, RowGroups, conform
from pipeline.parts.part_rows import part_errors
from pipeline.parts.schema import dimension_of
from pipeline.parts.snapshot import Snapshot, SnapshotFile, SnapshotPart, file_stamp
from pipeline.text import shown


def publish(
    layout: OutputLayout,
    record: SnapshotFile,
    schema: pa.Schema,
    parts: Sequence[PartIndex],
    *,
    written: Collection[str],
    fingerprint: str,
    before: Snapshot | None,
    changes: Callable[[Path, Sequence[PartIndex]], None] | None = None,
) -> list[PartIndex]:
    """Publishes these parts and returns them as published. `written` are the names of those of this
    run; `changes` writes the change feed.

    Raises: StorageError; then the old output is unchanged.
    Cost: reads the parts of this run once more, and for a file output all parts.
    """
    with ThreadPoolExecutor(2, "hash") as threads:
        list(threads.map(_check_hash, [part for part in parts if part.path.name in written]))
    dimension = dimension_of(schema)
    if layout.part_suffix == ".parquet":
        # Parts that were finished before the first vector lack its dimension.
        parts = [
            part if part.header.dimension == dimension else _rebuild(layout, part, schema)
            for part in parts
        ]
    snapshot = Snapshot(
        run=layout.version.name,
        fingerprint=fingerprint,
        dimension=dimension,
        documents=sum(part.header.documents for part in parts),
        rows=sum(part.header.rows for part in parts),
        parts=_snapshot_parts(parts, with_stamps=False),
        file=None,
        has_changes=changes is not None,
    )
    if before is not None and _is_same(before, snapshot) and record.is_published(before):
        snapshot = replace(snapshot, run=before.run, file=before.file, has_changes=False)
    elif layout.suffix == "":
        _build_version(layout, schema, parts)
        if changes is not None:
            changes(record.pending_changes, parts)
        record.write_pending(snapshot)
        layout.switch()
    else:
        file = PartFile(layout.path, schema, layout.temporary, for_hub=True)
        try:
            _assemble(file, parts, schema)
            file.seal()
        except BaseException:
            file.discard()
            raise
        with storage_errors(layout.path):
            snapshot = replace(snapshot, file=file_stamp(layout.temporary))
        if changes is not None:
            changes(record.pending_changes, parts)
        record.write_pending(snapshot)
        file.publish()
    record.settle(replace(snapshot, parts=_snapshot_parts(parts, with_stamps=True)))
    layout.sweep({part.path.stem for part in parts})
    return list(parts)


def _check_hash(part: PartIndex) -> None:
    with storage_errors(part.path):
        digest = sha256_of(part.path)
    if digest != part.header.sha256:
        raise StorageError(f"{shown(str(part.path))}: damaged since it was written")


def _snapshot_parts(parts: Sequence[PartIndex], *, with_stamps: bool) -> tuple[SnapshotPart, ...]:
    """The parts as records. After its last link a part's stamp no longer changes, so that later
    runs can trust it without reading the part."""
    return tuple(
        SnapshotPart(
            name=part.path.name,
            sha256=part.header.sha256,
            documents=part.header.documents,
            rows=part.header.rows,
            stamp=stamp_of(part.path) if with_stamps else None,
        )
        for part in parts
    )


def _is_same(before: Snapshot, after: Snapshot) -> bool:
    hashes = [[part.sha256 for part in snapshot.parts] for snapshot in (before, after)]
    same = (before.fingerprint, before.dimension) == (after.fingerprint, after.dimension)
    return same and hashes[0] == hashes[1]


def _build_version(layout: OutputLayout, schema: pa.Schema, parts: Sequence[PartIndex]) -> None:
    with storage_errors(layout.version):
        shutil.rmtree(layout.version, ignore_errors=True)
        layout.version.mkdir()
    for number, part in enumerate(parts):
        layout.link_part(part.path, layout.version / layout.part_name(number))
    if not parts:
        PartFile(layout.version / layout.part_name(0), schema).finish()


def _rebuild(layout: OutputLayout, part: PartIndex, schema: pa.Schema) -> PartIndex:
    """The same rows under the schema of the output, in the same row groups."""
    entries = part.entries()
    if entries is None:
        raise StateError(
            f"{shown(str(part.path))}: its index was damaged during the run",
            hint="run again: the damaged part is rebuilt",
        )
    file = PartFile(layout.parts / f"remade-{part.path.name}", schema)
    try:
        with part_errors(part.path), pq.ParquetFile(part.path) as source:
            for at in range(source.num_row_groups):
                file.write(conform([source.read_row_group(at, use_threads=False)], schema))
    except BaseException:
        file.discard()
        raise
    _, digest = file.finish(by_hash=True)
    with storage_errors(file.path):
        stamp = stamp_of(file.path)
    header = replace(part.header, sha256=digest, stamp=stamp, dimension=dimension_of(schema))
    return write_index(file.path, header, entries)


def _assemble(file: PartFile, parts: Sequence[PartIndex], schema: pa.Schema) -> None:
    """Writes one file of these parts, in row groups that do not depend on the parts."""
    if output_suffix(file.path) == ".jsonl":
        for part in parts:
            file.append(part.path)
    else:
        for pieces in _row_groups(part.path for part in parts):
            file.write(conform(pieces, schema))


def _row_groups(paths: Iterator[Path]) -> Iterator[list[pa.Table]]:
    groups = RowGroups()
    for path in paths:
        with part_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            for index in range(file.num_row_groups):
                groups.add(file.read_row_group(index, use_threads=False))
                yield from groups.complete()
    yield from groups.remaining()
