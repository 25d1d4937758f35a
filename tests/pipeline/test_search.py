"""The nearest rows are those of a brute-force search."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from pipeline.errors import InputError, UsageError
from pipeline.search import metadata, nearest, vector_batches

DIM = 6
QUESTION = np.arange(1, DIM + 1, dtype=np.float32) / np.float32(np.sqrt(91))
LEFT, RIGHT = np.array([1, 0], "f4"), np.array([0, 1], "f4")


def written(path, vectors, rows_per_group=4, dim=DIM, first=0, **columns):
    kind = pa.list_(pa.float32(), dim)
    table = pa.table({
        "id": pa.array(range(first, first + len(vectors)), pa.int64()),
        "vector": pa.array(vectors, kind), **columns,
    }).replace_schema_metadata({"textmill.model": "m", "textmill.task": "t", "other": "x"})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return str(path)


def axis(number, length=1.0):
    return [length if each == number else 0.0 for each in range(DIM)]


# A vector is None, or along an axis: scores are far apart or exactly equal, whatever the length.
AXES = st.none() | st.tuples(st.integers(0, DIM - 1), st.sampled_from([0.25, 1.0, 4.0]))


@settings(max_examples=60)
@given(st.lists(AXES, max_size=30), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4))
def test_hits_are_those_of_brute_force_with_ties_in_file_order(drawn, count, group, files):
    vectors = [drawn_axis and axis(*drawn_axis) for drawn_axis in drawn]
    expected = sorted(
        (index for index, one in enumerate(drawn) if one is not None),
        key=lambda index: (-drawn[index][0], index),
    )[:count]
    with tempfile.TemporaryDirectory() as name:
        for number in range(files):
            low, high = (len(vectors) * n // files for n in (number, number + 1))
            written(Path(name, f"part-{number:05}.parquet"), vectors[low:high], group, first=low)
        path = name if files > 1 else str(Path(name, "part-00000.parquet"))
        hits = nearest(path, QUESTION, count)
    assert [hit.row for hit in hits] == [{"id": index} for index in expected]
    assert [hit.score for hit in hits] == [
        round((drawn[index][0] + 1) / 91**0.5, 4) for index in expected
    ]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from([3, 8, 256, 384]), st.integers(1, 120))
def test_equal_vectors_score_equal_at_any_position(seed, dim, rows):
    random = np.random.default_rng(seed)
    vector, question = random.normal(size=(2, dim)).astype("f4")
    with tempfile.TemporaryDirectory() as name:
        path = written(Path(name, "o.parquet"), [vector.tolist()] * rows, 33, dim)
        hits = nearest(path, question / np.linalg.norm(question), 40)
    assert [hit.row["id"] for hit in hits] == list(range(min(rows, 40)))


def test_random_vectors_agree_with_a_reference(tmp_path):
    random = np.random.default_rng(7)
    vectors = random.normal(size=(500, 32)).astype("f4")
    question = vectors[123] / np.linalg.norm(vectors[123])
    cosines = vectors.astype("f8") @ question / np.linalg.norm(vectors.astype("f8"), axis=1)
    hits = nearest(written(tmp_path / "o.parquet", vectors.tolist(), 64, 32), question, 7)
    assert [hit.row["id"] for hit in hits] == np.argsort(-cosines)[:7].tolist()
    assert [hit.score for hit in hits] == np.round(np.sort(cosines)[::-1][:7], 4).tolist()
    assert hits[0].row["id"] == 123


def test_a_vector_of_zeros_scores_zero_and_one_with_nan_is_skipped(tmp_path):
    path = written(tmp_path / "o.parquet", [[0, 0], [float("nan"), 1], [-1, 0], [1, 0]], 4, 2)
    assert [(hit.row["id"], hit.score) for hit in nearest(path, LEFT, 9)] == [
        (3, 1.0), (0, 0.0), (2, -1.0),
    ]


def test_an_output_without_rows_or_without_vectors_has_no_hits(tmp_path):
    assert nearest(written(tmp_path / "a.parquet", []), QUESTION, 3) == []
    assert nearest(written(tmp_path / "b.parquet", [None] * 9), QUESTION, 3) == []


def test_vectors_come_in_batches_with_their_rows_and_without_the_nulls(tmp_path):
    path = written(tmp_path / "o.parquet", [None, [1, 0], [0, 1], None, [1, 1]], 3, 2,
                   title=pa.array(["a", "b", "c", "d", "e"]))
    batches = [(matrix.tolist(), matrix.dtype, [row_at(n) for n in range(len(matrix))])
             for matrix, row_at in vector_batches(path)]
    assert batches == [
        ([[1, 0], [0, 1]], np.float32, [{"id": 1, "title": "b"}, {"id": 2, "title": "c"}]),
        ([[1, 1]], np.float32, [{"id": 4, "title": "e"}]),
    ]


def test_rows_are_read_whatever_their_clocks(tmp_path):
    when = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
    path = written(tmp_path / "o.parquet", [[1, 0]], 1, 2, when=when)
    (hit,) = nearest(path, LEFT, 1)
    assert hit.row == {"id": 0, "when": "2023-11-14T22:13:20.123456789"}


def test_other_columns_are_read_only_for_groups_with_a_hit(tmp_path, monkeypatch):
    path = written(tmp_path / "o.parquet", [[1, 0]] + [[0, 1]] * 11, 4, 2)
    reads = []
    read = pq.ParquetFile.read_row_group

    def counted(self, group, columns, **options):
        reads.append((group, columns))
        return read(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert [hit.row["id"] for hit in nearest(path, LEFT, 1)] == [0]
    assert reads == [(0, ["vector"]), (0, ["id"]), (1, ["vector"]), (2, ["vector"])]


def test_the_question_must_have_the_vectors_dimension(tmp_path):
    path = written(tmp_path / "o.parquet", [[1, 0]], 1, 2)
    with pytest.raises(UsageError) as error:
        nearest(path, QUESTION, 1)
    assert str(error.value) == f"{path}: vectors of 2 dimensions, the question has 6"


def test_metadata_is_what_textmill_wrote(tmp_path):
    path = written(tmp_path / "o.parquet", [[1, 0]], 1, 2)
    assert metadata(path) == {"textmill.model": "m", "textmill.task": "t"}
    assert metadata(str(tmp_path)) == {"textmill.model": "m", "textmill.task": "t"}


def test_what_is_no_output_is_one_line(tmp_path):
    (tmp_path / "x.parquet").write_text("PAR1 no more")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"gone: no such output"):
        metadata(str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"empty: no Parquet file in this folder"):
        metadata(str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"x\.parquet: not a Parquet output \("):
        nearest(str(tmp_path / "x.parquet"), LEFT, 1)


def test_a_damaged_page_is_one_line(tmp_path):
    path = Path(written(tmp_path / "o.parquet", [[1, 0]] * 200, 200, 2))
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(each ^ 0xFF for each in content[4:60])
    path.write_bytes(content)
    with pytest.raises(InputError):
        nearest(str(path), RIGHT, 1)
