"""What the source makes of every kind of row."""

import datetime as dt
import decimal
import json
import random

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from pipeline.errors import InputError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey


def read_all(path, **spec):
    surveyed = survey(InputSpec(str(path), "text", **spec))
    return surveyed, [document for batch in read(surveyed) for document in batch]


BAD = {
    b'{"id": 1, "text": "a"': "malformed JSON: Input data was truncated",
    b'{"id": 1, "text": "\xff"}': "malformed JSON: invalid UTF-8 at byte 20",
    b'{"id": 1, "text": "\\ud800"}': "malformed JSON: lone surrogate",
    b'{"text": "a", "o": [{"k": "\\udfff"}]}': "malformed JSON: lone surrogate",
    b'{"id": 1, "text": "a", "x": NaN}': "malformed JSON: NaN is not JSON",
    b'{"id": 1, "text": "a", "x": -Infinity}': "malformed JSON: -Infinity is not JSON",
    b'{"id": 1, "id": 2, "text": "a"}': "malformed JSON: duplicate key `id`",
    b'{"id": 1, "text": "a\\":", "o": {"k" : 1, "k":2}}': "malformed JSON: duplicate key `k`",
    b'["text"]': "the line must be a JSON object, got array",
    b"null": "the line must be a JSON object, got null",
    b"[" * 5000: "malformed JSON: nested deeper than 64 levels",
    b'{"text": ' + b"[" * 70 + b"]" * 70 + b"}": "malformed JSON: nested deeper than 64 levels",
    b'{"id": 1, "text": ["a"]}': "`text` must be a string, got array",
    b'{"id": 1, "text": 5}': "`text` must be a string, got integer",
    b'{"id": 1, "text": "a", "n": 18446744073709551616}': "`n` is an integer beyond 64 bits",
    b'{"id": 1, "o": {"n": [18446744073709551616]}}': "`o.n.[]` is an integer beyond 64 bits",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:40].decode("latin-1"))
def test_a_bad_row_is_isolated_with_its_reason_and_its_neighbours_are_kept(tmp_path, line):
    good = b'{"id": 100, "text": "good", "n": 1}'
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, line, good.replace(b"100", b"101")]))
    for spec in ({"id": "id"}, {}):
        _, found = read_all(tmp_path / "a.jsonl", **spec)
        assert [document.text for document in found] == ["good", None, "good"]
        assert [document.error for document in found] == [None, BAD[line], None]
        assert found[1].address == f"{tmp_path}/a.jsonl:2"
        row = found[1].row_ref.batch.slice(found[1].row_ref.row, 1).to_pylist()[0]
        assert {value for name, value in row.items() if name != "id"} == {None}


def test_control_characters_of_keys_are_escaped_in_errors(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "\\u001b[31m": 1}\n{"text": "b", "\\u001b[31m": "x"}'
    )
    error = read_all(tmp_path / "a.jsonl")[1][1].error
    assert error == "`\\x1b[31m` must be integer, as in the rows before, got string"


def test_bom_crlf_blank_lines_and_a_missing_last_newline_are_accepted(tmp_path):
    raw = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b\\u0000\\r\\n"}\r\n{"text": "c"}'
    (tmp_path / "a.jsonl").write_bytes(raw)
    found = read_all(tmp_path / "a.jsonl")[1]
    assert [document.text for document in found] == ["a", "b\x00\r\n", "c"]
    assert [document.address.rpartition(":")[2] for document in found] == ["1", "4", "5"]


def test_null_missing_empty_and_blank_texts_are_no_errors(tmp_path):
    rows = ['{"text": null}', '{"n": 1}', '{"text": ""}', '{"text": " "}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = read_all(tmp_path / "a.jsonl")[1]
    assert [(d.text, d.error) for d in found] == [
        (None, None),
        (None, None),
        ("", None),
        (" ", None),
    ]


def test_batches_stay_within_parts_and_a_huge_row_is_a_batch_of_its_own(tmp_path):
    rows = [{"id": n, "text": "x" * (9_000_000 if n == 5 else 10)} for n in range(2000)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    surveyed = survey(InputSpec(str(tmp_path / "a.jsonl"), "text", id="id"))
    batches = list(read(surveyed))
    assert all(len({document.part for document in batch}) == 1 for batch in batches)
    assert all(len(batch) <= 256 for batch in batches)
    assert [len(batch) for batch in batches if any(d.id == 5 for d in batch)] == [1]
    sizes = {}
    for batch in batches:
        for document in batch:
            sizes[document.part] = sizes.get(document.part, 0) + 1
    assert list(sizes.values()) == list(surveyed.part_rows)


EXACT = pa.table(
    {
        "text": pa.array(["a", "b"], pa.large_string()),
        "price": pa.array([decimal.Decimal("1.10"), None], pa.decimal128(9, 2)),
        "at": pa.array([1, 2], pa.timestamp("ns", "Asia/Shanghai")),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "tree": pa.array([{"a": [1]}, None], pa.struct([("a", pa.list_(pa.int16()))])),
        "day": pa.array([dt.date(2024, 1, 2), None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
    }
)


def test_parquet_columns_keep_their_types_and_values(tmp_path):
    pq.write_table(EXACT, tmp_path / "a.parquet")
    surveyed, found = read_all(tmp_path / "a.parquet", fields=("kind", "day"))
    assert surveyed.schema.equals(EXACT.schema)
    batch = found[0].row_ref.batch
    assert pa.table(batch).equals(EXACT)
    assert found[0].fields == {"kind": "x", "day": "2024-01-02"}
    assert found[1].address == f"{tmp_path}/a.parquet: row 1"


def test_parquet_text_that_is_not_utf8_is_isolated(tmp_path):
    raw = pa.array([b"good", b"\xff\xfe", b"good"])
    table = pa.table({"id": [1, 2, 3], "text": raw.view(pa.string()), "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    for spec in ({"id": "id"}, {}):
        _, found = read_all(tmp_path / "a.parquet", **spec)
        assert [d.error for d in found] == [None, "`text` is not valid UTF-8", None]
        assert [d.text for d in found] == ["good", None, "good"]
        assert found[1].row_ref.batch.column("n").to_pylist() == [1, None, 3]


def test_a_damaged_page_is_named_by_file_and_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    text = [f"{n} some text {n * n}" for n in range(4000)]
    pq.write_table(
        pa.table({"id": range(4000), "text": text}),
        path,
        row_group_size=1000,
        use_dictionary=False,
        write_page_checksum=True,
    )
    at = pq.read_metadata(path).row_group(2).column(1).data_page_offset + 200
    raw = bytearray(path.read_bytes())
    raw[at : at + 40] = bytes(40)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a.parquet: row group 2 cannot be read"):
        survey(InputSpec(str(path), "text", id="id"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("change", ["edit", "remove"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_an_input_that_changes_or_vanishes_ends_the_run(tmp_path, name, change, when):
    path = tmp_path / name
    if name == "a.jsonl":
        path.write_text('{"text": "abc"}\n' * 1000)
    else:
        pq.write_table(pa.table({"text": ["abc"] * 1000}), path)
    batches = read(survey(InputSpec(str(path), "text")))
    if when == "during":
        next(batches)
    if change == "edit":
        path.write_bytes(path.read_bytes())
        import os

        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(InputError, match="changed while it was read"):
        list(batches)


def test_files_of_one_input_share_one_schema(tmp_path):
    pq.write_table(
        pa.table({"text": ["a"], "n": pa.array([1], pa.int32())}), tmp_path / "a.parquet"
    )
    pq.write_table(
        pa.table(
            {
                "m": [1.5],
                "text": pa.array(["b"]).dictionary_encode(),
                "n": pa.array([2], pa.int64()),
            }
        ),
        tmp_path / "b.parquet",
    )
    _, found = read_all(tmp_path)
    assert [d.text for d in found] == ["a", "b"]
    assert [d.row_ref.batch.column("n").to_pylist() for d in found] == [[1], [2]]
    assert [d.row_ref.batch.column("m").to_pylist() for d in found] == [[None], [1.5]]


def test_views_become_plain_columns(tmp_path):
    table = pa.table({"id": pa.array(["a", "b"], pa.string_view()),
                      "text": pa.array(["one", None], pa.string_view()),
                      "raw": pa.array([b"x", b"y"], pa.binary_view()),
                      "deep": pa.array([["u"], ["v"]], pa.list_(pa.string_view()))})
    pq.write_table(table, tmp_path / "views.parquet")
    surveyed = survey(InputSpec(str(tmp_path / "views.parquet"), "text", "id", None))
    (documents,) = read(surveyed)
    assert [each.text for each in documents] == ["one", None]
    assert surveyed.schema.types == [pa.string(), pa.string(), pa.binary(),
                                     pa.list_(pa.field("element", pa.string()))]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([".jsonl", ".parquet"]))
def test_only_the_rows_that_are_needed_are_read_and_they_are_the_same(
    tmp_path_factory, seed, has_id, suffix
):
    make = random.Random(seed)
    folder = tmp_path_factory.mktemp("needed")
    rows = [{"id": n, "text": make.choice(["a", "b", "c"]), "k": n % 2} for n in range(40)]
    if not has_id:
        rows = [{"text": row["text"]} for row in rows]
    for half, some in enumerate((rows[:17], rows[17:])):
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(some), folder / f"{half}{suffix}", row_group_size=4)
        else:
            lines = [json.dumps(row) for row in some]
            lines[2:2] = ["", "broken" if half else " "]
            (folder / f"{half}{suffix}").write_text("\n".join(lines) + "\n")
    surveyed = survey(InputSpec(str(folder), "text", id="id" if has_id else None))
    whole = [each for batch in read(surveyed) for each in batch]
    wanted = sorted(make.sample(range(len(whole)), make.randrange(len(whole))))

    def needed():
        start = 0
        for count in surveyed.part_rows:
            yield np.array([n for n in wanted if start <= n < start + count], np.int64)
            start += count

    def facts(document):
        row = document.row_ref.batch.slice(document.row_ref.row, 1).to_pylist()
        return (document.identity, document.id, document.text, document.address, document.part,
                document.error, row)  # fmt: skip

    documents = [document for batch in read(surveyed, needed) for document in batch]
    assert [facts(document) for document in documents] == [facts(whole[n]) for n in wanted]
