"""Parts, commit, bytes and locks."""

import datetime as dt
import errno
import json
import os
import tracemalloc
from decimal import Decimal
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.disk.locks import lock_run_folder
from pipeline.errors import LockedError, StorageError, UsageError
from pipeline.parts import layout as place
from pipeline.parts import part_file as parts
from pipeline.records import Chunk, Column, Result, Row
from pipeline.sink import sink
from pipeline.sink.sink import Sink
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey
from pipeline.source.types.values import python_values

FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VECTOR = (Column("vector", "vector"),)
LABEL = (Column("label", "string"),)


def vector(n):
    return np.array([n, 0.1, -n], "<f4").tobytes()


def source(tmp_path, rows=3, **spec):
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(f'{{"id": "r-{n}", "text": "text {n}", "year": {n}}}\n' for n in range(rows))
    )
    return survey(InputSpec(str(path), "text", id="id", **spec))


def per_chunk(document, size=3):
    if document.text is None:
        return Result("failed", [Row((None,))])
    chunks = [
        Chunk(at, min(at + size, len(document.text)), 1)
        for at in range(0, len(document.text), size)
    ]
    return Result("ok", (Row((vector(c.start_char),), c) for c in chunks), chunks=len(chunks))


def label(document, text="good"):
    if document.error:
        return Result("failed", [Row((None,))])
    return Result("ok", [Row((text,))], chunks=1, tokens=2, model="m")


def write_output(surveyed, output, columns=LABEL, make=label, run_id="run-1", commit=True, **given):
    target = Sink(
        output=str(output),
        run_id=run_id,
        survey=surveyed,
        columns=columns,
        per_chunk=columns == VECTOR,
        **given,
    )
    try:
        for batch in read(surveyed):
            for document in batch:
                target.write(document, make(document))
        if commit:
            assert target.commit() == target.counts.rows
    finally:
        target.close()
    return target


def left_over(folder):
    """Files that no run needs: unfinished ones and parts without an index."""
    found = list(Path(folder).rglob("*"))
    halves = [p for p in found if "tmp" in p.name or p.name.startswith("next")]
    bare = [p for p in found if p.parent.name == "parts" and not p.with_suffix(".index").exists()]
    return sorted(p.name for p in halves + bare)


def test_one_row_per_chunk_as_parquet(tmp_path):
    done = write_output(
        source(tmp_path, keep=("year",)),
        tmp_path / "out/v.parquet",
        VECTOR,
        per_chunk,
        metadata={"textmill.task": "feature-extraction"},
    )
    table = pq.read_table(tmp_path / "out/v.parquet")
    assert table.schema.metadata[b"textmill.task"] == b"feature-extraction"
    rows = table.to_pylist()
    assert [row["chunk"] for row in rows] == [0, 1] * 3
    assert {**rows[3], "chunk_id": None} == {
        "id": "r-1",
        "chunk_id": None,
        "chunk": 1,
        "start_char": 3,
        "end_char": 6,
        "tokens": 1,
        "section": None,
        "text": "t 1",
        "year": 1,
        "vector": [3.0, pytest.approx(0.1), -3.0],
        "_status": "ok",
        "_error": None,
    }
    assert len({row["chunk_id"] for row in rows}) == 6
    assert done.counts == (3, 0, 0, 6)
    assert left_over(tmp_path) == []


def test_one_row_per_document_as_lines(tmp_path):
    write_output(source(tmp_path, rows=1), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == (
        '{"id":"r-0","text":"text 0","year":0,"label":"good","_status":"ok","_error":null,'
        '"_truncated":false,"_chunks":1,"_tokens":2,"_model":"m"}\n'
    )


def test_vectors_and_exact_types_as_lines(tmp_path):
    table = pa.table(
        {
            "text": ["a"],
            "d": [Decimal("1.10")],
            "b": [b"\xff"],
            "t": pa.array([dt.datetime(2024, 1, 2, 3)], pa.timestamp("us", "UTC")),
            "f": [float("nan")],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    surveyed = survey(InputSpec(str(tmp_path / "in.parquet"), "text", keep=("d", "b", "t", "f")))
    write_output(surveyed, tmp_path / "out.jsonl", VECTOR, per_chunk)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["vector"] == [0.0, 0.1, 0.0] or row["vector"] == [0.0, 0.1, -0.0]
    assert (row["d"], row["b"], row["t"], row["f"]) == (
        "1.10",
        "/w==",
        "2024-01-02T03:00:00Z",
        None,
    )
    assert len(row["id"]) == 32


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_nothing_kept_and_no_id_leaves_the_identity(tmp_path, name):
    (tmp_path / "in.jsonl").write_text('{"text": "abc", "n": 1}\n{bad\n')
    pq.write_table(pa.table({"text": ["abc", None], "n": [1, 2]}), tmp_path / "in.parquet")
    surveyed = survey(InputSpec(str(tmp_path / name), "text", keep=()))
    write_output(surveyed, tmp_path / "v.parquet", VECTOR, per_chunk)
    write_output(surveyed, tmp_path / "d.parquet")
    for output in ("v.parquet", "d.parquet"):
        table = pq.read_table(tmp_path / output)
        assert table.num_rows == 2 and "n" not in table.column_names
        assert len(set(table["id"].to_pylist())) == 2


def test_rare_arrow_types_come_through_as_they_are(tmp_path):
    table = pa.table(
        {
            "text": ["a", "b"],
            "fixed": pa.array([b"ab", None], pa.binary(2)),
            "time": pa.array([dt.time(1, 2), None], pa.time64("ns")),
            "span": pa.array([1, None], pa.duration("ns")),
            "half": pa.array([1.5, None], pa.float16()),
            "times": pa.array([[1, None], None], pa.list_(pa.timestamp("ns"))),
            "large": pa.array([["x"], None], pa.large_list(pa.large_string())),
            "wide": pa.array([2**64 - 1, None], pa.uint64()),
            "nothing": pa.nulls(2),
            "map": pa.array([[("k", [1])], None], pa.map_(pa.string(), pa.list_(pa.int8()))),
            "floats": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
            "a.b": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    for spec in ({}, {"id": "text"}):
        surveyed = survey(InputSpec(str(tmp_path / "in.parquet"), "text", **spec))
        for name in ("o.parquet", "o"):
            write_output(surveyed, tmp_path / name)
            assert pq.read_table(tmp_path / name).select(table.column_names).equals(table)
        write_output(surveyed, tmp_path / "o.jsonl")
        row = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
        assert (row["wide"], row["time"], row["a.b"]) == (2**64 - 1, "01:02:00", 1)


def test_repeated_chunks_of_one_document_have_names_of_their_own(tmp_path):
    surveyed = source(tmp_path, rows=1)
    make = lambda d: Result("ok", [Row((None,), Chunk(0, 1, 1)), Row((None,), Chunk(3, 4, 1))])  # noqa: E731
    write_output(surveyed, tmp_path / "o.parquet", VECTOR, make)
    names = pq.read_table(tmp_path / "o.parquet")["chunk_id"].to_pylist()
    assert len(set(names)) == 2 and all(len(name) == 32 for name in names)


def test_without_any_vector_the_column_is_a_list(tmp_path):
    write_output(
        source(tmp_path),
        tmp_path / "o.parquet",
        VECTOR,
        lambda d: Result("failed", [Row((None,))], error="no answer"),
    )
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.field("element", pa.float32()))
    assert table["_error"].to_pylist() == ["no answer"] * 3


@pytest.mark.parametrize("name", ["o.parquet", "o"])
def test_the_first_vector_may_come_late(tmp_path, name, monkeypatch):
    monkeypatch.setattr(parts, "GROUP_ROWS", 100)
    monkeypatch.setattr(sink, "PIECE_ROWS", 7)

    def late(document):
        known = int(document.id[2:]) >= 2500
        return Result("ok", [Row((vector(1) if known else None,), Chunk(0, 1, 1))])

    surveyed = source(tmp_path, rows=3000)
    write_output(surveyed, tmp_path / name, VECTOR, late)
    table = pq.read_table(tmp_path / name)
    assert table["vector"].null_count == 2500 and table["vector"].type.list_size == 3
    again = tmp_path / "declared" / name
    write_output(surveyed, again, VECTOR, late, dimension=3)
    files = lambda path: sorted(path.iterdir()) if path.is_dir() else [path]  # noqa: E731
    assert [f.read_bytes() for f in files(tmp_path / name)] == [
        f.read_bytes() for f in files(again)
    ]


@settings(FEW, max_examples=20)
@given(pieces=st.integers(1, 100), piece_bytes=st.integers(10, 1250), rows=st.integers(0, 175))
def test_bytes_do_not_depend_on_arrival(tmp_path_factory, pieces, piece_bytes, rows):
    folder = tmp_path_factory.mktemp("arrival")
    surveyed = source(folder, rows=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "GROUP_ROWS", 32)
        write_output(surveyed, folder / "a.parquet", VECTOR, per_chunk)
        patch.setattr(sink, "PIECE_ROWS", pieces)
        patch.setattr(sink, "PIECE_BYTES", piece_bytes)
        write_output(surveyed, folder / "b.parquet", VECTOR, per_chunk, run_id="run-2")
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def missing_as_null(value):
    """A value without nulls and empty objects."""
    if isinstance(value, dict):
        kept = {k: missing_as_null(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v is not None} or None
    return [missing_as_null(each) for each in value] if isinstance(value, list) else value


@FEW
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), min_size=1, max_size=8)
)
def test_any_json_row_that_fits_survives_in_both_formats(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("json")
    rows = [{"text": "t", **row} for row in rows]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tables, lines = (
        survey(InputSpec(str(folder / "in.jsonl"), "text", for_json=each)) for each in (False, True)
    )
    errors = [d.error for batch in read(tables) for d in batch]
    names = tables.schema.names
    write_output(lines, folder / "o.jsonl")
    write_output(tables, folder / "o.parquet")
    again = survey(InputSpec(str(folder / "o.parquet"), "text", keep=tuple(names), for_json=True))
    write_output(again, folder / "again.jsonl")
    table = pq.read_table(folder / "o.parquet")
    in_parquet = zip(*(python_values(table[name]) for name in names), strict=True)
    expected = [row if error is None else {} for row, error in zip(rows, errors, strict=True)]
    # The same values; a key that is missing from a row is null in a line.
    assert [{name: row[name] for name in names} for row in json_rows(folder / "o.jsonl")] == [
        {name: row.get(name) for name in names} for row in expected
    ]
    # In Parquet, an object has all keys of its column.
    for found in (
        [dict(zip(names, row, strict=True)) for row in in_parquet],
        [{name: row[name] for name in names} for row in json_rows(folder / "again.jsonl")],
    ):
        assert list(map(missing_as_null, found)) == list(map(missing_as_null, expected))


def json_rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").strip("\n").split("\n")]


def test_a_directory_output_is_a_link_to_a_version(tmp_path):
    surveyed = source(tmp_path, rows=3000)
    write_output(surveyed, tmp_path / "out", run_id="run-1")
    first = (tmp_path / "out").resolve()
    assert (tmp_path / "out").readlink() == Path("out.run/versions/run-1")
    names = sorted(p.name for p in first.iterdir())
    assert names == [f"part-{n:05d}.parquet" for n in range(len(surveyed.part_rows))]
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == [f"r-{n}" for n in range(3000)]
    for n in (2, 3):
        write_output(surveyed, tmp_path / "out", run_id=f"run-{n}", make=lambda d, n=n: label(d, str(n)))
    assert sorted(p.name for p in first.parent.iterdir()) == ["run-2", "run-3"]


def test_zero_rows_are_a_valid_output_of_every_kind(tmp_path):
    surveyed = source(tmp_path, rows=0)
    for name in ("o.parquet", "o.jsonl", "o"):
        write_output(surveyed, tmp_path / name)
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 0
    assert (tmp_path / "o.jsonl").read_bytes() == b""
    assert "label" in pq.read_schema(tmp_path / "o" / "part-00000.parquet").names


@pytest.mark.parametrize("name", ["o.parquet", "o.jsonl", "o"])
def test_the_old_output_is_unchanged_until_the_commit(tmp_path, name):
    surveyed = source(tmp_path, rows=600)
    write_output(surveyed, tmp_path / name)
    before = (tmp_path / name).resolve()
    write_output(surveyed, tmp_path / name, run_id="run-2", commit=False, make=lambda d: label(d, "other"))
    assert (tmp_path / name).resolve() == before
    assert left_over(tmp_path) == []
    text = pq.read_table(before).to_pylist() if name != "o.jsonl" else before.read_text()
    assert "other" not in str(text) and "good" in str(text)


def test_a_row_is_never_lost_and_never_twice(tmp_path):
    surveyed = source(tmp_path)
    with pytest.raises(ValueError, match="2 rows for one document"):
        write_output(surveyed, tmp_path / "o.parquet", make=lambda d: Result("ok", [Row(("a",))] * 2))
    write_output(surveyed, tmp_path / "o.parquet", make=lambda d: Result("failed", []))
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 3
    target = Sink(
        output=str(tmp_path / "p.parquet"),
        run_id="r",
        survey=surveyed,
        columns=LABEL,
        per_chunk=False,
    )
    with pytest.raises(ValueError, match="0 documents written, 3 read"):
        target.commit()
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.slow
def test_a_million_chunks_stream(tmp_path):
    surveyed = source(tmp_path, rows=1)
    taken = []

    def many(document):
        def rows():
            for n in range(60_000):
                taken.append(n) if n % 10_000 == 0 else None
                yield Row((vector(n % 7),), Chunk(n % 4, n % 4 + 1, 1))

        return Result("ok", rows())

    tracemalloc.start()
    write_output(surveyed, tmp_path / "o.parquet", VECTOR, many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    meta = pq.read_metadata(tmp_path / "o.parquet")
    assert (meta.num_rows, meta.row_group(0).num_rows) == (60_000, 4096)
    assert len(taken) == 6 and peak < 8_000_000


@pytest.mark.slow
def test_row_groups_are_cut_by_bytes_too(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * 9_000_000}) + "\n" for _ in range(6)))
    write_output(survey(InputSpec(str(path), "text")), tmp_path / "o.parquet")
    meta = pq.read_metadata(tmp_path / "o.parquet")
    assert [meta.row_group(n).num_rows for n in range(meta.num_row_groups)] == [4, 2]


def test_dictionary_columns_come_out_as_dictionaries(tmp_path):
    table = pa.table(
        {"text": ["a", "b", "c"], "kind": pa.array(["x", None, "y"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "in.parquet")
    write_output(survey(InputSpec(str(tmp_path / "in.parquet"), "text")), tmp_path / "o.parquet")
    found = pq.read_table(tmp_path / "o.parquet")["kind"]
    assert pa.types.is_dictionary(found.type) and found.to_pylist() == ["x", None, "y"]


# Refusals and faults


def refuse(tmp_path, output, error, match):
    with pytest.raises(error, match=match):
        write_output(source(tmp_path), output)


def test_outputs_that_cannot_be_are_refused_before_anything_is_written(tmp_path):
    refuse(tmp_path, tmp_path / "in.jsonl", UsageError, "output.path is the input")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    refuse(tmp_path, tmp_path / "folder", UsageError, "the folder was not created by textmill")
    (tmp_path / "d.parquet").mkdir()
    refuse(tmp_path, tmp_path / "d.parquet", UsageError, "exists and is no file")
    (tmp_path / "plain").write_text("")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "plain")
    refuse(tmp_path, tmp_path / "link.parquet", UsageError, "is a symbolic link")
    refuse(tmp_path, tmp_path / "plain", UsageError, "exists and is no directory")
    refuse(tmp_path, tmp_path / "plain/o.parquet", StorageError, "plain: cannot be written")
    with lock_run_folder(tmp_path / "x.parquet.run"):
        (tmp_path / "x.parquet.run" / "runs").mkdir()
    refuse(tmp_path, tmp_path / "x.parquet.run/o.parquet", UsageError, "is in a run folder")


def test_an_output_among_its_inputs_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    source(tmp_path / "data")
    for name in ("data", "data/*.jsonl"):
        surveyed = survey(InputSpec(str(tmp_path / name), "text", id="id"))
        with pytest.raises(UsageError, match="would read it the next time"):
            write_output(surveyed, tmp_path / "data/out.jsonl")
    write_output(surveyed, tmp_path / "data/out.parquet")


def test_a_published_folder_cannot_replace_its_own_input(tmp_path):
    write_output(source(tmp_path), tmp_path / "out")
    surveyed = survey(InputSpec(str(tmp_path / "out"), "text", id="id", keep=()))
    with pytest.raises(UsageError, match=r"output.path is the input"):
        write_output(surveyed, tmp_path / "out", run_id="run-2")


def test_what_a_killed_run_left_is_cleared(tmp_path):
    left = tmp_path / "o.parquet.run/parts"
    left.mkdir(parents=True)
    (left / ".00000.parquet.textmill.tmp").write_bytes(b"half")
    (left / ".00000.parquet.textmill.tmp.before.tmp").write_bytes(b"half")
    (tmp_path / ".o.parquet.textmill.tmp").write_bytes(b"half")
    write_output(source(tmp_path), tmp_path / "o.parquet")
    assert left_over(tmp_path) == []


def test_a_folder_that_takes_no_files_is_a_storage_error(tmp_path, monkeypatch):
    def no(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(place.Path, "touch", no)
    refuse(
        tmp_path, tmp_path / "o.parquet", StorageError, r"cannot be written \(Permission denied\)"
    )


@pytest.mark.parametrize("name", ["o.parquet", "o.jsonl", "o"])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_the_nth_failing_call_never_leaves_a_wrong_output(tmp_path, name, call, monkeypatch):
    surveyed = source(tmp_path, rows=600)
    write_output(surveyed, tmp_path / "expected" / name)
    write_output(surveyed, tmp_path / name, make=lambda d: label(d, "old"))
    module, attribute = {
        "fsync": (os, "fsync"),
        "replace": (Path, "replace"),
        "open": (Path, "open"),
    }[call]
    real = getattr(module, attribute)

    def content(path):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [file.read_bytes() for file in files]

    old, new = content(tmp_path / name), content(tmp_path / "expected" / name)
    for nth in range(1, 80):
        count = 0

        def failing(*args, nth=nth, **kwargs):
            nonlocal count
            writes = call != "open" or "wb" in args
            count += writes
            if writes and count == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(module, attribute, failing)
            try:
                write_output(surveyed, tmp_path / name, run_id=f"run-{nth}")
            except StorageError as error:
                assert "No space left on device" in str(error)
                assert content(tmp_path / name) in (old, new)
            else:
                break
    assert 1 < nth < 79
    assert content(tmp_path / name) == new


def test_a_damaged_part_is_never_published(tmp_path):
    surveyed = source(tmp_path)
    target = Sink(
        output=str(tmp_path / "o.parquet"),
        run_id="r",
        survey=surveyed,
        columns=LABEL,
        per_chunk=False,
    )
    for batch in read(surveyed):
        for document in batch:
            target.write(document, label(document))
    target._finish_part()
    path = target.parts[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match="damaged since it was written"):
        target.commit()


def test_a_second_run_is_refused_at_once_with_the_holders_name(tmp_path):
    folder = tmp_path / "o.parquet.run"
    with lock_run_folder(folder), pytest.raises(LockedError) as caught, lock_run_folder(folder):
        pass
    assert str(caught.value).startswith(f"{folder}: held by another run (host ")
    assert f"pid {os.getpid()}, since " in str(caught.value)
    with lock_run_folder(folder):
        pass
