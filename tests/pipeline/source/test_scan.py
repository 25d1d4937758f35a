"""Identities, refusals and types of the survey; and that the source agrees with it."""

import gzip
import json
import os

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings

from pipeline.errors import InputError, UsageError
from pipeline.source import scan as survey_module
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.identity import of_id
from pipeline.source.scan import survey

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = (
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def documents(path, **spec):
    surveyed = survey(InputSpec(str(path), "text", **spec))
    return surveyed, [document for batch in read(surveyed) for document in batch]


def kept_values(surveyed, documents):
    return [
        {name: d.row_ref.batch.column(name)[d.row_ref.row].as_py() for name in surveyed.schema.names}
        for d in documents
    ]


@FEW
@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=12))
@example(rows=[{"a": [2**53 + 2, 0.5]}])
def test_survey_and_source_agree_on_any_json_rows(tmp_path, rows):
    rows = [{"text": "first"}, *rows]
    surveyed, found = documents(jsonl(tmp_path / "any.jsonl", rows))
    assert surveyed.rows == len(rows) == len(found) == sum(surveyed.part_rows)
    assert len({document.identity for document in found}) == len(rows)
    assert all((document.error is None) or document.text is None for document in found)


@FEW
@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": TEXT, "n": INT64, "x": st.none() | TEXT}), max_size=20
    ),
    seed=st.randoms(),
)
def test_content_identity_knows_no_key_order_no_blanks_and_no_file_format(tmp_path, rows, seed):
    path = jsonl(tmp_path / "a.jsonl", rows)
    shuffled = []
    for row in rows:
        keys = list(row)
        seed.shuffle(keys)
        shuffled.append(
            json.dumps({k: row[k] for k in keys}, indent=None, separators=(" , ", " : "))
        )
    (tmp_path / "b.jsonl").write_text("\n\n".join(shuffled), "utf-8")
    schema = pa.schema([("n", pa.int64()), ("x", pa.large_string()), ("text", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "c.parquet")
    expected = [document.identity for document in documents(path)[1]]
    assert [document.identity for document in documents(tmp_path / "b.jsonl")[1]] == expected
    assert [document.identity for document in documents(tmp_path / "c.parquet")[1]] == expected


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int64(), pa.uint32(), pa.float64(), pa.dictionary(pa.int8(), pa.int64())]
)
def test_an_integer_id_is_the_same_in_any_width_and_format(tmp_path, kind):
    path = jsonl(tmp_path / "a.jsonl", [{"id": 5, "text": "a"}, {"id": 6, "text": "b"}])
    ids = pa.array([5, 6], pa.int64())
    ids = ids.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else ids.cast(kind)
    pq.write_table(pa.table({"id": ids, "text": ["a", "b"]}), tmp_path / "a.parquet")
    left, right = documents(path, id="id")[1], documents(tmp_path / "a.parquet", id="id")[1]
    assert [d.identity for d in left] == [d.identity for d in right]
    assert [d.id for d in right] == [5, 6]


def test_one_is_not_the_string_one(tmp_path):
    a = documents(jsonl(tmp_path / "a.jsonl", [{"id": 1, "text": "a"}]), id="id")[1]
    b = documents(jsonl(tmp_path / "b.jsonl", [{"id": "1", "text": "a"}]), id="id")[1]
    assert a[0].identity != b[0].identity


def test_duplicate_ids_are_refused_with_both_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"r-{n}", "text": "x"} for n in range(1, 40)] + [{"id": "r-17", "text": "y"}]
    path = jsonl(tmp_path / "reports.jsonl", rows)
    assert path
    with pytest.raises(InputError) as caught:
        survey(InputSpec("reports.jsonl", "text", id="id"))
    assert str(caught.value) == "reports.jsonl:17 and reports.jsonl:40: id `r-17` is not unique"


def test_duplicate_ids_are_found_across_parquet_files_and_in_spilled_hashes(tmp_path, monkeypatch):
    monkeypatch.setattr(survey_module, "PACKED_ROWS", 10)
    for name, ids in (("a", range(60)), ("b", range(100, 150))):
        table = pa.table({"id": [*ids, 7 if name == "b" else 999], "text": ["x"] * (len(ids) + 1)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(
        InputError, match=r"a.parquet: row 7 and .*b.parquet: row 50: id `7` is not"
    ):
        survey(InputSpec(str(tmp_path), "text", id="id"))


def test_equal_rows_are_numbered_also_where_hashes_are_spilled(tmp_path, monkeypatch):
    rows = [{"text": "same"} if n % 3 else {"text": f"row {n}"} for n in range(100)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    expected = [document.identity for document in documents(path)[1]]
    assert len(set(expected)) == 100
    monkeypatch.setattr(survey_module, "PACKED_ROWS", 7)
    assert [document.identity for document in documents(path)[1]] == expected


def test_an_id_that_cannot_be_read_isolates_its_row_and_no_other(tmp_path):
    lines = [
        '{"id": "a", "text": "x"}',
        '{"id": null, "text": "x"}',
        '{"text": "x"}',
        '{"id": [1], "text": "x"}',
        '{"id": 7, "text": "x"}',
        "{broken",
        "{broken",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    _, found = documents(tmp_path / "a.jsonl", id="id")
    assert [document.id for document in found] == ["a", None, None, None, None, None, None]
    assert len({document.identity for document in found}) == 7
    assert [document.error for document in found] == [
        None,
        "`id` is null",
        "`id` is missing",
        "`id` must be a string or a number, got array",
        "`id` must have the type of the earlier ids, got integer",
        "malformed JSON: object keys must be strings (byte 1)",
        "malformed JSON: object keys must be strings (byte 1)",
    ]


def test_a_float_id_that_is_no_number_is_isolated(tmp_path):
    ids = pa.array([1.0, float("nan"), float("inf"), -0.0, 0.0, None, 2.5])
    pq.write_table(pa.table({"key": ids, "text": ["t"] * 7}), tmp_path / "a.parquet")
    found = documents(tmp_path / "a.parquet", id="key")[1]
    assert [d.error for d in found] == [
        None, "`key` is not a number", "`key` is infinite", None, None, "`key` is null", None]  # fmt: skip
    assert [d.id for d in found] == [1.0, None, None, 0.0, 0.0, None, 2.5]
    assert found[0].identity == of_id(1)  # a whole float is the integer
    assert found[3].identity != found[4].identity  # but -0.0 is not 0


def test_a_parquet_row_without_id_is_named_by_its_values(tmp_path):
    table = pa.table({"id": [1, None, None, None], "text": ["a", "b", "b", "c"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = documents(tmp_path / "a.parquet", id="id", keep=())[1]
    assert [(d.id, d.text, d.error) for d in found] == [
        (1, "a", None),
        (None, None, "`id` is null"),
        (None, None, "`id` is null"),
        (None, None, "`id` is null"),
    ]
    assert len({document.identity for document in found}) == 4


def test_missing_columns_are_refused_with_the_nearest_and_all_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", [{"id": "a", "texts": "x"}])
    pq.write_table(pa.table({"id": ["a"], "texts": ["x"]}), "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(UsageError) as caught:
            survey(InputSpec(name, "text", id="id"))
        assert str(caught.value) == (
            f"{name}: column `text` (input.text) not found"
            " (did you mean `texts`?); columns: `id`, `texts`"
        )
        assert caught.value.hint == "--text COLUMN"
    with pytest.raises(UsageError, match=r"column `idd` \(input.id\) not found.*did you mean `id`"):
        survey(InputSpec("a.jsonl", "texts", id="idd"))
    with pytest.raises(UsageError, match=r"column `yaer` \(input.keep\) not found"):
        survey(InputSpec("a.jsonl", "texts", keep=("yaer",)))


@pytest.mark.parametrize(
    "name", ["gone.jsonl", "gone/*.jsonl", "a.xml", "folder", "gone/a.parquet"]
)
def test_inputs_that_are_not_there_are_usage_errors(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.xml").write_text("<text/>\n")
    with pytest.raises(UsageError):
        survey(InputSpec(str(tmp_path / name), "text"))


def test_a_truncated_parquet_file_is_refused_before_any_row(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        survey(InputSpec(str(path), "text"))


def test_a_truncated_gzip_file_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(os.urandom(20) + b'{"text": "a"}\n' * 1000)[:-30])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: cannot be read"):
        survey(InputSpec(str(path), "text"))


@pytest.mark.parametrize("suffix", [
    "jsonl", "jsonl.gz", "jsonl.zst", "ndjson", "jsonlines.gz", "json", "json.zst", "JSONL", "NdJson.GZ",
])  # fmt: skip
def test_packed_files_give_the_same_rows(tmp_path, suffix):
    raw = b"".join(b'{"id": "r-%d", "text": "t"}\n' % n for n in range(1000))
    packing = suffix.lower().partition(".")[2]
    packed = {
        "": lambda b: b,
        "gz": gzip.compress,
        "zst": lambda b: pa.compress(b, codec="zstd", asbytes=True),
    }
    (tmp_path / f"a.{suffix}").write_bytes(packed[packing](raw))
    found = documents(tmp_path / f"a.{suffix}", id="id")[1]
    assert [document.id for document in found] == [f"r-{n}" for n in range(1000)]


def test_a_json_file_in_a_folder_is_read_only_where_it_is_named(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"text": "a"}')
    (tmp_path / "info.json").write_text('{"description": "the rows beside it"}')
    assert survey(InputSpec(str(tmp_path), "text")).rows == 1
    with pytest.raises(UsageError, match=r"column `text` \(input.text\) not found"):
        survey(InputSpec(str(tmp_path / "info.json"), "text"))


def test_a_glob_takes_no_file_that_a_run_left(tmp_path):
    runs = tmp_path / "in" / "o.parquet.run" / "runs" / "1"
    runs.mkdir(parents=True)
    for path in (tmp_path / "in" / "a.jsonl", runs / "events.jsonl"):
        path.write_text('{"text": "a"}\n')
    assert survey(InputSpec(str(tmp_path / "in/**/*.jsonl"), "text")).rows == 1
    assert survey(InputSpec(str(runs / "*.jsonl"), "text")).rows == 1


def test_a_packing_that_is_not_read_is_named(tmp_path):
    (tmp_path / "a.jsonl.bz2").write_bytes(b"BZh")
    with pytest.raises(UsageError, match="unknown kind of file") as caught:
        survey(InputSpec(str(tmp_path / "a.jsonl.bz2"), "text"))
    assert caught.value.hint == "decompress it first"


def test_the_columns_of_jsonl_are_all_keys_with_the_types_of_their_first_values(tmp_path):
    rows = [
        {"text": "a", "n": 1, "day": "2024-01-02", "o": {"x": 1}, "l": [], "none": None},
        {"text": "b", "n": 2.5, "o": {"y": [1, 2.5]}, "l": [{"z": True}], "bare": {}},
        {"text": "c", "n": "three"},
        {"text": "d", "n": 2**53 + 1},
        {"text": "e", "late": 1},
    ]
    surveyed, found = documents(jsonl(tmp_path / "a.jsonl", rows))
    element = lambda kind: pa.list_(pa.field("element", kind))  # noqa: E731
    assert surveyed.schema == pa.schema(
        [
            ("text", pa.string()),
            ("n", pa.float64()),
            ("day", pa.string()),
            ("o", pa.struct([("x", pa.int64()), ("y", element(pa.float64()))])),
            ("l", element(pa.struct([("z", pa.bool_())]))),
            ("none", pa.string()),
            ("bare", pa.json_(pa.string())),
            ("late", pa.int64()),
        ]
    )
    assert [document.error for document in found] == [
        None,
        None,
        "`n` must be float, as in the rows before, got string",
        "`n` is an integer that its column of floats cannot hold exactly",
        None,
    ]
    values = kept_values(surveyed, found)
    assert values[1]["o"] == {"x": None, "y": [1.0, 2.5]}
    assert values[2] == dict.fromkeys(surveyed.schema.names)


def test_parts_hold_250_to_4000_rows_and_an_insertion_leaves_most_alone(tmp_path):
    rows = [{"id": f"r-{n}", "text": "t"} for n in range(20_000)]
    before, found = documents(jsonl(tmp_path / "a.jsonl", rows), id="id")
    after, again = documents(
        jsonl(tmp_path / "b.jsonl", [*rows[:9000], {"id": "new", "text": "t"}, *rows[9000:]]),
        id="id",
    )
    assert all(250 <= size <= 4000 for size in before.part_rows[:-1])
    assert 12 <= len(before.part_rows) <= 30

    def first_ids(documents):
        starts = {}
        for document in documents:
            starts.setdefault(document.part, document.id)
        return set(starts.values())

    assert len(first_ids(found) - first_ids(again)) <= 2
    assert before.fingerprint != after.fingerprint


def test_a_long_line_is_isolated_by_its_limit(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "%s"}\n{"text": "b"}\n' % ("a" * 100_000))
    _, found = documents(tmp_path / "a.jsonl", max_row_bytes=1000)
    assert [d.error for d in found] == [
        "the line is longer than guard.max_row_bytes = 1,000 bytes",
        None,
    ]
    assert found[1].text == "b" and found[1].address.endswith("a.jsonl:2")


def test_an_empty_file_is_zero_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    surveyed, found = documents(tmp_path / "a.jsonl", id="id")
    assert (surveyed.rows, list(surveyed.part_rows), found) == (0, [], [])
    assert surveyed.schema.names == ["text", "id"]
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert documents(tmp_path / "b.parquet")[1] == []


# Columns that may be missing


@pytest.mark.parametrize("family", ["jsonl", "parquet"])
def test_a_column_that_may_be_missing_reads_as_none_and_adds_nothing_to_the_output(tmp_path, family):
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    if family == "jsonl":
        path = jsonl(tmp_path / "in.jsonl", rows)
    else:
        path = str(tmp_path / "in.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    spec = {"fields": ("n", "sensitive"), "optional": ("sensitive",)}
    surveyed, found = documents(path, **spec)
    assert surveyed.schema.names == (["text", "n"])
    assert [d.fields for d in found] == [{"n": 1, "sensitive": None}, {"n": 2, "sensitive": None}]
    with pytest.raises(UsageError, match="`sensitive`"):
        documents(path, fields=("sensitive",))


def test_a_column_that_only_some_rows_and_files_have_reads_as_none_elsewhere(tmp_path):
    (tmp_path / "json").mkdir()
    jsonl(tmp_path / "json" / "a.jsonl", [{"text": "a"}, {"text": "b", "s": True}, {"text": "c", "s": None}])
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "parquet" / "a.parquet")
    pq.write_table(pa.table({"text": ["b", "c"], "s": [True, None]}), tmp_path / "parquet" / "b.parquet")
    for name in ("json", "parquet"):
        for more in ({}, {"keep": ()}, {"id": "text"}):
            _, found = documents(tmp_path / name, fields=("s",), optional=("s",), **more)
            assert [d.fields["s"] for d in found] == [None, True, None], (name, more)
            assert [d.text for d in found] == ["a", "b", "c"]


@pytest.mark.parametrize("id", [1, 1.5, True, "a"])
@pytest.mark.parametrize("rest", [{"text": 5}, {"text": "x", "n": 2**64}])
def test_the_id_of_a_row_is_kept_where_every_row_is_isolated(tmp_path, id, rest):
    surveyed, found = documents(jsonl(tmp_path / "a.jsonl", [{"id": id} | rest]), id="id")
    assert [document.id for document in found] == [id]
    assert found[0].error is not None
    assert kept_values(surveyed, found)[0]["id"] == id


WILD = JSON | st.integers(2**62, 2**65) | st.just({}) | st.sampled_from([1, 1.0, 2.5, "1", True])


@settings(FEW, max_examples=200)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["id", "text", "n"]), WILD), max_size=6),
    keep=st.sampled_from([None, (), ("n",), ("id", "text", "n")]),
    key=st.sampled_from([None, "id", "text"]),
)
@example(rows=[{"id": 1, "text": 5}], keep=None, key="id")
def test_any_values_give_every_row_or_one_refusal(tmp_path, rows, keep, key):
    path = jsonl(tmp_path / "any.jsonl", [*rows, {"id": "last", "text": "last one", "n": None}])
    try:
        surveyed, found = documents(path, id=key, keep=keep)
    except (InputError, UsageError):
        return
    assert len(found) == len(rows) + 1
    assert len(kept_values(surveyed, found)) == len(found)
    assert len({document.identity for document in found}) == len(found)
