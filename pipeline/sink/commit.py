"""The commit: finished parts under the output's name, in one rename.

A directory output is a version folder of links to the parts, a file is assembled from them. If no
part changed, what stands is left alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from pipeline.disk.durable import storing
from pipeline.errors import StateError, StorageError
from pipeline.parts.index import Indexed, sha256_of, stamp_of, write_index
from pipeline.parts.layout import Place
from pipeline.parts.part_file import PartFile, RowGroups, conformed
from pipeline.parts.part_rows import reading
from pipeline.parts.schema import dimension_of
from pipeline.parts.snapshot import Standing, StandingPart, StandingRecord, file_stamp
from pipeline.text import shown


def publish(
    place: Place,
    record: StandingRecord,
    schema: pa.Schema,
    parts: Sequence[Indexed],
    *,
    written: Collection[str],
    fingerprint: str,
    before: Standing | None,
    changes: Callable[[Path, Sequence[Indexed]], None] | None = None,
) -> list[Indexed]:
    """Publishes these parts; they come back as they stand. `written` names those of this run,
    `changes` writes what they change.

    Raises: StorageError; then what stood before stands.
    Cost: reads what this run wrote once more, and for a file output all parts.
    """
    with ThreadPoolExecutor(2, "hash") as threads:
        list(threads.map(_check, [part for part in parts if part.path.name in written]))
    dimension = dimension_of(schema)
    if place.part_suffix == ".parquet":
        # Parts that were finished before the first vector came do not know its dimension.
        parts = [
            part if part.header.dimension == dimension else _remade(place, part, schema)
            for part in parts
        ]
    coming = Standing(
        run=place.version.name,
        fingerprint=fingerprint,
        dimension=dimension,
        documents=sum(part.header.documents for part in parts),
        rows=sum(part.header.rows for part in parts),
        parts=_listed(parts, with_stamps=False),
        file=None,
        has_changes=changes is not None,
    )
    if before is not None and _is_same(before, coming) and record.is_published(before):
        coming = replace(coming, run=before.run, file=before.file, has_changes=False)
    elif place.suffix == "":
        _build_version(place, schema, parts)
        if changes is not None:
            changes(record.next_changes, parts)
        record.announce(coming)
        place.switch()
    else:
        file = PartFile(place.path, schema, place.temporary, for_hub=True)
        try:
            _assemble(file, parts, schema)
            file.seal()
        except BaseException:
            file.discard()
            raise
        with storing(place.path):
            coming = replace(coming, file=file_stamp(place.temporary))
        if changes is not None:
            changes(record.next_changes, parts)
        record.announce(coming)
        file.publish()
    record.settle(replace(coming, parts=_listed(parts, with_stamps=True)))
    place.sweep({part.path.stem for part in parts})
    return list(parts)


def _check(part: Indexed) -> None:
    with storing(part.path):
        digest = sha256_of(part.path)
    if digest != part.header.sha256:
        raise StorageError(f"{shown(str(part.path))}: damaged since it was written")


def _listed(parts: Sequence[Indexed], *, with_stamps: bool) -> tuple[StandingPart, ...]:
    """Once a part has its last link its stamp stays: later runs need not read it to trust it."""
    return tuple(
        StandingPart(
            name=part.path.name,
            sha256=part.header.sha256,
            documents=part.header.documents,
            rows=part.header.rows,
            stamp=stamp_of(part.path) if with_stamps else None,
        )
        for part in parts
    )


def _is_same(before: Standing, coming: Standing) -> bool:
    names = [[part.sha256 for part in each.parts] for each in (before, coming)]
    same = (before.fingerprint, before.dimension) == (coming.fingerprint, coming.dimension)
    return same and names[0] == names[1]


def _build_version(place: Place, schema: pa.Schema, parts: Sequence[Indexed]) -> None:
    with storing(place.version):
        shutil.rmtree(place.version, ignore_errors=True)
        place.version.mkdir()
    for number, part in enumerate(parts):
        place.link_part(part.path, place.version / place.part_name(number))
    if not parts:
        PartFile(place.version / place.part_name(0), schema).finish()


def _remade(place: Place, part: Indexed, schema: pa.Schema) -> Indexed:
    """The same rows under the schema of the output, in the same row groups."""
    entries = part.entries()
    if entries is None:
        raise StateError(
            f"{shown(str(part.path))}: its index was damaged during the run",
            hint="run again: what is damaged is built anew",
        )
    file = PartFile(place.parts / f"remade-{part.path.name}", schema)
    try:
        with reading(part.path), pq.ParquetFile(part.path) as source:
            for at in range(source.num_row_groups):
                file.write(conformed([source.read_row_group(at, use_threads=False)], schema))
    except BaseException:
        file.discard()
        raise
    _, digest = file.finish(by_hash=True)
    with storing(file.path):
        stamp = stamp_of(file.path)
    known = replace(part.header, sha256=digest, stamp=stamp, dimension=dimension_of(schema))
    return write_index(file.path, known, entries)


def _assemble(file: PartFile, parts: Sequence[Indexed], schema: pa.Schema) -> None:
    """One file of these parts, in row groups that do not know of parts."""
    if file.path.suffix.lower() == ".jsonl":
        for part in parts:
            file.append(part.path)
    else:
        for pieces in _regrouped(part.path for part in parts):
            file.write(conformed(pieces, schema))


def _regrouped(paths: Iterator[Path]) -> Iterator[list[pa.Table]]:
    groups = RowGroups()
    for path in paths:
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            for index in range(file.num_row_groups):
                groups.add(file.read_row_group(index, use_threads=False))
                yield from groups.whole()
    yield from groups.rest()
