"""The same rows give the same documents in every format, in one pass and in a resumed one."""

import csv
import gzip
import io
import json

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings

from pipeline.errors import InputError, UsageError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey

FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.text('",;\t|\r\n\\[]{}:é😀 ', max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"title": TEXT, "text": TEXT}), max_size=6)


def as_csv(rows, delimiter=",", end="\r\n"):
    out = io.StringIO()
    # With LF as the end of lines, csv leaves a CR unquoted: then it reads as one of CR LF.
    quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    writer = csv.DictWriter(out, ["id", "title", "text"], delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows):
    out = pa.BufferOutputStream()
    schema = pa.schema([(name, pa.string()) for name in ("id", "title", "text")])
    pq.write_table(pa.Table.from_pylist(rows, schema), out)
    return out.getvalue().to_pybytes()


FORMATS = {
    "a.jsonl": lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in rows),
    "a.json": lambda rows: json.dumps(rows, ensure_ascii=False).encode(),
    "b.json": lambda rows: json.dumps(rows, indent=1).encode(),
    "c.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "a.csv": as_csv,
    "b.csv": lambda rows: b"\xef\xbb\xbf" + as_csv(rows, ";", "\n"),
    "c.csv.zst": lambda rows: pa.compress(as_csv(rows), codec="zstd", asbytes=True),
    "a.tsv": lambda rows: as_csv(rows, "\t"),
    "a.parquet": as_parquet,
}  # fmt: skip


def documents(path, needed=None, **spec):
    surveyed = survey(InputSpec(str(path), "text", **spec))
    return surveyed, [document for batch in read(surveyed, needed) for document in batch]


def facts(surveyed, found):
    marks = surveyed.marks.slice(0, surveyed.rows).tobytes()
    return marks, list(surveyed.part_rows), [
        (d.identity, d.id, d.text, d.error, d.part, d.row_ref.batch.slice(d.row_ref.row, 1).to_pylist())
        for d in found
    ]  # fmt: skip


@FEW
@given(rows=ROWS, id=st.sampled_from(["id", None]))
@example(rows=[{"title": '"', "text": '\r\n",'}], id="id")
def test_the_same_rows_are_the_same_documents_in_every_format(tmp_path, rows, id):
    rows = [{"id": f"k{n}", **row} for n, row in enumerate(rows, 1)]
    seen = {}
    for name, write in FORMATS.items():
        (tmp_path / name).write_bytes(write(rows))
        if rows:  # JSON without rows shows no columns
            seen[name] = facts(*documents(tmp_path / name, id=id))
    assert all(found == seen["a.jsonl"] for found in seen.values())
    if rows:
        assert [text for _, _, text, *_ in seen["a.jsonl"][2]] == [row["text"] for row in rows]


@pytest.mark.parametrize("name", FORMATS)
def test_a_resumed_run_reads_only_the_rows_that_it_needs(tmp_path, name):
    rows = [{"id": f"k{n}", "title": 'a "b"\nc', "text": f"The weir {n}"} for n in range(700)]
    (tmp_path / name).write_bytes(FORMATS[name](rows))
    surveyed, whole = documents(tmp_path / name, id="id")
    parts = np.split(np.arange(700), np.cumsum(surveyed.part_rows)[:-1])

    def needed():
        return iter([part[part % 7 == 3] for part in parts])

    found = documents(tmp_path / name, needed, id="id")[1]
    assert [d.identity for d in found] == [d.identity for d in whole[3::7]]
    assert [d.address for d in found] == [d.address for d in whole[3::7]]


# JSON arrays


@FEW
@given(rows=st.lists(st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6,
), max_size=5), piece=st.integers(1, 9), indent=st.sampled_from([None, 1]))  # fmt: skip
def test_elements_are_those_of_the_json_module_wherever_pieces_end(tmp_path, rows, piece, indent):
    from pipeline.source.formats import json_array, long_lines

    path = tmp_path / "a.json"
    rows = [{"text": "t", "value": {"v": row}} for row in rows]
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), "utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_array, "PIECE_BYTES", piece)
        patched.setattr(json_array, "LONG_BYTES", 30)
        patched.setattr(long_lines, "PIECE_BYTES", piece)
        found = documents(path, for_json=True)[1]
    values = [d.row_ref.batch.column("value")[d.row_ref.row].as_py() if d.error is None else None for d in found]
    assert [json.loads(value) for value in values if value] == [
        row["value"] for row, d in zip(rows, found, strict=True) if d.error is None
    ]
    whole = documents(path, for_json=True)[1]
    # Of two values that do not fit, either may be the one that is named.
    assert [d.error is None for d in found] == [d.error is None for d in whole]


@pytest.mark.parametrize(("raw", "errors"), [
    (b'[]', []),
    (b' [ ] [{"text": "a"}]\n[{"text": "b"}]', [None, None]),
    (b'[{"text": "a"}, 1, {"text": NaN}, {"text": "a", "text": "b"}, {"text": "\xff"}, {"text": "}]"}]', [
        None, "the row must be a JSON object, got integer", "malformed JSON: NaN is not JSON",
        "malformed JSON: duplicate key `text`", "malformed JSON: invalid UTF-8 at byte 11", None]),
    (b'{"text": "a"}\n{"text": "b"}\n', [None, None]),
    (b'', []),
])  # fmt: skip
def test_a_bad_element_costs_one_row(tmp_path, raw, errors):
    (tmp_path / "a.json").write_bytes(raw)
    found = documents(tmp_path / "a.json")[1]
    assert [d.error for d in found] == errors
    if raw.startswith(b"[{"):
        assert found[1].address == f"{tmp_path}/a.json: row 1"


@pytest.mark.parametrize(("raw", "row"), [
    (b'[{"text": "a"}, {"text": "b', 1), (b'[{"text": "a"},', 1), (b'[{"text": "a"}', 0), (b"[", 0),
    (b'[{"text": "a"}, {"text": ["b"}, {"text": "c"}]', 1),
])  # fmt: skip
def test_an_array_without_an_end_is_refused_since_rows_may_be_missing(tmp_path, raw, row):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(InputError, match=rf"a\.json: the JSON array ends in the middle, in row {row}: "):
        survey(InputSpec(str(tmp_path / "a.json"), "text"))


# CSV


def table(path, raw, **spec):
    path.write_bytes(raw)
    return documents(path, **spec)


@pytest.mark.parametrize(("line", "error"), [
    (b"k2,b", "malformed CSV: the line has 2 fields, the header 3"),
    (b"k2,b,c,", "malformed CSV: the line has 4 fields, the header 3"),
    (b"k2,\xff,c", "malformed CSV: invalid UTF-8 at byte 4"),
    (b'k2,"b" b,c', "malformed CSV: text follows a closing quote (a quote in a field must be doubled)"),
    (b'k2,"b,c', "malformed CSV: a quoted field has no end"),
    (b'k2,"b\\"b",c', "malformed CSV: text follows a closing quote (a quote in a field must be doubled)"),
    (b"k2," + b"b" * 200 + b",c", "the row is longer than guard.max_row_bytes = 100 bytes"),
])  # fmt: skip
def test_a_bad_line_of_csv_costs_one_row(tmp_path, line, error):
    raw = b'id,title,text\nk1,"a\n\nb",c\n\n' + line + b"\nk3,b,c\n"
    _, found = table(tmp_path / "a.csv", raw, id="id", max_row_bytes=100)
    assert [d.error for d in found] == [None, error, None]
    assert [d.id for d in found] == ["k1", None, "k3"]
    assert [d.address.rpartition(":")[2] for d in found] == ["2", "6", "7"]


@FEW
@given(rows=ROWS, piece=st.integers(1, 9), end=st.sampled_from(["\n", "\r\n"]))
def test_rows_of_csv_are_those_of_the_csv_module_wherever_pieces_end(tmp_path, rows, piece, end):
    from pipeline.source.formats import delimited

    raw = as_csv([{"id": "k", **row} for row in rows], end=end).removesuffix(end.encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(delimited, "_PIECE_BYTES", piece)
        found = table(tmp_path / "a.csv", raw)[1]
    expected = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    assert [d.row_ref.batch.slice(d.row_ref.row, 1).to_pylist()[0] for d in found] == expected


def test_a_stray_quote_that_swallows_lines_gives_them_back(tmp_path):
    raw = b'id,text\nk1,"never closed\nk2,b\nk3,"quoted, well"\nk4,d\n'
    found = table(tmp_path / "a.csv", raw, id="id")[1]
    assert [(d.id, d.error is None) for d in found] == [(None, False), ("k2", True), ("k3", True), ("k4", True)]


def test_every_column_of_csv_is_text_and_has_a_name(tmp_path):
    surveyed, found = table(tmp_path / "a.csv", b",text,n\n007,,1.50\n")
    assert found[0].row_ref.batch.to_pylist() == [{"column_1": "007", "text": "", "n": "1.50"}]
    assert set(surveyed.schema.types) == {pa.string()}


@pytest.mark.parametrize(("raw", "error", "problem"), [
    (b"id,id,text\n1,2,x\n", UsageError, "a.csv:1: two columns are named `id`"),
    (b"id,body\n1,x\n", UsageError, r"column `text` \(input.text\) not found.*; columns: `id`, `body`"),
    (b"id,t\xffxt\n1,x\n", InputError, "a.csv:1: the header cannot be read: malformed CSV: invalid UTF-8 at byte 5"),
    (b"id,text\r1,x\r", InputError, "a.csv: the file is text with CR line ends, not CSV"),
    ("id,text\n1,x\n".encode("utf-16"), InputError, "a.csv: the file is UTF-16 text, not CSV"),
    (gzip.compress(b"id,text\n", mtime=0), InputError, "a.csv: the file is data compressed with gzip, not CSV"),
    (b'{"text": "x"}\n', InputError, "a.csv: the file is JSON Lines, not CSV"),
    (b"<!DOCTYPE html>\n<html>", InputError, "a.csv: the file is an HTML page, not CSV"),
    (b"%PDF-1.7\n", InputError, "a.csv: the file is a PDF document, not CSV"),
])  # fmt: skip
def test_a_csv_file_that_cannot_be_one_is_refused_with_one_line(tmp_path, raw, error, problem):
    with pytest.raises(error, match=problem):
        table(tmp_path / "a.csv", raw)


def test_a_header_alone_is_zero_rows_with_columns(tmp_path):
    surveyed, found = table(tmp_path / "a.csv", b"id,text\n", id="id")
    assert (surveyed.rows, found, surveyed.schema.names) == (0, [], ["id", "text"])
    assert table(tmp_path / "a.csv", b"")[0].rows == 0
    with pytest.raises(UsageError, match="column `text`"):
        table(tmp_path / "a.csv", b"id,body\n")


# Texts and folders


def test_each_text_file_is_a_document_with_its_path_as_id(tmp_path):
    folder = tmp_path / "docs"
    (folder / "lang=de").mkdir(parents=True)
    for name, raw in {
        "README.md": b"\xef\xbb\xbf# A\r\n", "b.txt": b"", "c.txt": b"caf\xe9", "d.txt": "hi".encode("utf-16"),
        "long.md": b"x" * 101, "lang=de/x.md": "Brücke".encode(), ".hidden.md": b"x", "_draft.md": b"x",
        "a.bin": b"x",
    }.items():  # fmt: skip
        (folder / name).write_bytes(raw)
    surveyed, found = documents(folder, max_row_bytes=100)
    assert surveyed.spec.id == "path"
    assert [(d.id, d.text, d.error) for d in found] == [
        ("README.md", "# A\r\n", None),
        ("b.txt", "", None),
        ("c.txt", None, "the file is text in another encoding, not UTF-8 text"),
        ("d.txt", None, "the file is UTF-16 text, not UTF-8 text"),
        ("lang=de/x.md", "Brücke", None),
        ("long.md", None, "the file is longer than guard.max_row_bytes = 100 bytes"),
    ]
    assert found[4].row_ref.batch.to_pylist()[4] == {"path": "lang=de/x.md", "text": "Brücke", "lang": "de"}
    assert found[0].address == f"{folder}/README.md"
    assert [d.id for d in documents(folder / "**/[!_]*.md")[1]] == ["README.md", "lang=de/x.md", "long.md"]
    assert [d.id for d in documents(folder / "b.txt")[1]] == ["b.txt"]
    (tmp_path / "docs").rename(tmp_path / "moved")
    assert [d.identity for d in documents(tmp_path / "moved", max_row_bytes=100)[1]] == [d.identity for d in found]


@pytest.mark.parametrize(("names", "read_names"), [
    (["a.jsonl", "README.md", "LICENSE.txt", "info.json", "x.bin"], ["a.jsonl"]),
    (["a.json", "b.json", "README.md"], ["a.json", "b.json"]),
    (["README.md", "a.txt"], ["README.md", "a.txt"]),
    (["README.md"], ["README.md"]),
])  # fmt: skip
def test_a_folder_gives_its_rows_and_not_what_describes_them(tmp_path, names, read_names):
    from pipeline.source.files import find

    for name in names:
        (tmp_path / name).write_text("")
    assert [file.relative for file in find(str(tmp_path))] == read_names


def test_a_folder_of_three_kinds_names_them_and_how_to_pick_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.csv", "c.csv", "d.md"):
        (tmp_path / "in" / name).write_text("")
    with pytest.raises(UsageError) as caught:
        survey(InputSpec("in", "text"))
    assert str(caught.value) == "in: 2 CSV files, 1 JSON Lines file and 1 text file cannot be read as one input"
    assert caught.value.hint == "name one kind: -i 'in/*.jsonl', -i 'in/*.csv' or -i 'in/*.md'"


@pytest.mark.parametrize(("name", "raw"), [
    ("a.csv", b"text\nx\n"), ("a.tsv", b"text\nx\n"), ("a.json", b'[{"text": "x"}]'), ("a.md", b"x"),
])  # fmt: skip
def test_partitions_are_columns_in_every_format(tmp_path, name, raw):
    folder = tmp_path / "in" / "lang=en" / "year=2024"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(raw)
    for path in (tmp_path / "in", tmp_path / "in" / "*" / "*" / name, folder / name):
        (document,) = documents(path)[1]
        row = document.row_ref.batch.to_pylist()[0]
        assert (row["lang"], row["year"], document.text) == ("en", "2024", "x")
