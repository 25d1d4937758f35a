"""Folders named `name=value` are columns of the rows below them, in every format and role."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.partitions import partitions
from pipeline.source.scan import survey


@pytest.mark.parametrize(("path", "is_folder", "file", "expected"), [
    ("in/*/*.jsonl", False, "in/lang=en/a.jsonl", (("lang", "en"),)),
    ("in/**/*.jsonl", False, "in/y=2024/m=05/a.jsonl", (("y", "2024"), ("m", "05"))),
    ("in/lang=en/*.jsonl", False, "in/lang=en/a.jsonl", (("lang", "en"),)),
    ("in/lang=en/a.jsonl", False, "in/lang=en/a.jsonl", (("lang", "en"),)),
    ("in/", True, "in/lang=en/a.jsonl", (("lang", "en"),)),
    ("in/lang=en", True, "in/lang=en/a.jsonl", (("lang", "en"),)),
    ("in/**/*.jsonl", False, "in/lang=en/new/a.jsonl", (("lang", "en"),)),
    ("/env=prod/in/*.jsonl", False, "/env=prod/in/a.jsonl", ()),
    ("s3://b/in/*/*.parquet", False, "s3://b/in/lang=en/a.parquet", (("lang", "en"),)),
    ("in/*/a=b.jsonl", False, "in/x/a=b.jsonl", ()),
    ("in/=x/*.jsonl", False, "in/=x/a.jsonl", ()),
    ("in/*/*.jsonl", False, "in/q=a=b/a.jsonl", (("q", "a=b"),)),
    ("in/*/*.jsonl", False, "in/q=/a.jsonl", (("q", ""),)),
    ("in/*/*.jsonl", False, "in/a%20b=%E4%B8%AD%2F1/a.jsonl", (("a b", "中/1"),)),
    ("in/*/*.jsonl", False, "in/q=100%25/a.jsonl", (("q", "100%"),)),
    ("in/*/*.jsonl", False, "in/q=%FF/a.jsonl", (("q", "%FF"),)),
    ("in/*/*.jsonl", False, "in/q=__HIVE_DEFAULT_PARTITION__/a.jsonl", (("q", None),)),
    ("in/[1].jsonl", False, "in/[1].jsonl", ()),
])  # fmt: skip
def test_the_partition_of_a_file(path, is_folder, file, expected):
    assert partitions(path, [file], is_folder=is_folder) == [expected]


def test_a_partition_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match="the name of a partition is not UTF-8"):
        partitions("in/*/*.jsonl", ["in/q=\udcff/a.jsonl"], is_folder=False)


def write(folder, rows, suffix):
    folder.mkdir(parents=True)
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    else:
        (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def found(path, **spec):
    surveyed = survey(InputSpec(str(path), "text", **spec))
    documents = [document for batch in read(surveyed) for document in batch]
    return surveyed, documents


def kept(document):
    return {k: v[0] for k, v in document.row_ref.batch.slice(document.row_ref.row, 1).to_pydict().items()}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_partitions_are_columns_in_every_role(tmp_path, suffix):
    write(tmp_path / "in/lang=en/year=2024", [{"key": 1, "text": "one"}, {"key": 2, "text": "two"}], suffix)
    write(tmp_path / "in/lang=zh/year=__HIVE_DEFAULT_PARTITION__", [{"key": 3, "text": "三"}], suffix)
    for path in (tmp_path / "in", tmp_path / "in/**" / f"*.{suffix}", tmp_path / "in/*/*" / f"*.{suffix}"):
        surveyed, rows = found(path, id="key")
        assert surveyed.schema.names == ["key", "text", "lang", "year"]
        assert [kept(row) for row in rows] == [
            {"key": 1, "text": "one", "lang": "en", "year": "2024"},
            {"key": 2, "text": "two", "lang": "en", "year": "2024"},
            {"key": 3, "text": "三", "lang": "zh", "year": None},
        ]
        assert [row.fields for row in found(path, id="key", keep=(), fields=("lang",))[1]] == [
            {"lang": "en"}, {"lang": "en"}, {"lang": "zh"}]  # fmt: skip
    single = tmp_path / "in/lang=zh/*" / f"*.{suffix}"
    assert [row.id for row in found(single, id="lang", keep=("key",))[1]] == ["zh"]
    with pytest.raises(InputError, match=r"id `en` is not unique"):
        found(tmp_path / "in", id="lang", keep=())


def test_the_values_count_for_identities_and_the_folders_do_not(tmp_path):
    rows = [{"text": "one"}, {"text": "two"}]
    write(tmp_path / "a/lang=en", rows, "jsonl")
    write(tmp_path / "b/deep/lang=en", rows, "parquet")
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row | {"lang": "en"}) + "\n" for row in rows))
    identities = [
        [row.identity for row in found(tmp_path / path)[1]]
        for path in ("a/*/*.jsonl", "b/deep/*/*.parquet", "c.jsonl")
    ]
    assert identities[0] == identities[1] == identities[2]
    write(tmp_path / "d/lang=zh", rows, "jsonl")
    assert found(tmp_path / "d")[1][0].identity not in identities[0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_of_the_file_wins(tmp_path, suffix):
    write(tmp_path / "in/lang=en", [{"text": "one", "lang": "en-GB"}, {"text": "two", "lang": None}], suffix)
    write(tmp_path / "in/lang=zh", [{"text": "三"}], suffix)
    rows = found(tmp_path / "in")[1]
    assert [kept(row)["lang"] for row in rows] == ["en-GB", None, "zh"]


def test_other_subfolders_of_a_folder_are_not_read(tmp_path):
    write(tmp_path / "in/lang=en", [{"text": "one"}], "jsonl")
    write(tmp_path / "in/old", [{"text": "not read"}], "jsonl")
    assert found(tmp_path / "in")[0].rows == 1


def test_a_file_moved_to_another_partition_is_another_input(tmp_path):
    write(tmp_path / "in/lang=en", [{"text": "one"}], "jsonl")
    before = found(tmp_path / "in")[0].fingerprint
    (tmp_path / "in/lang=en").rename(tmp_path / "in/lang=zh")
    assert found(tmp_path / "in")[0].fingerprint != before
