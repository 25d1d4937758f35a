"""Faults 8 to 22 of the input over a whole run: Parquet, drift, size, changes; with their exit codes.

Whatever the fault, rows balance, neighbours are intact, the key is in no byte that a run leaves,
and a second run sends nothing again.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.mock import serving

KEY = "canary-91c2d4e0f7"


def text_of(n):
    return f"Row {n}: the weir at Oxmead stood at {n * 7} mm."


def write_lines(path, rows):
    path.write_bytes(
        b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows)
    )


@pytest.fixture
def workdir(tmp_path, monkeypatch, own_home):
    monkeypatch.setenv("MOCK_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for file in [*tmp_path.rglob("*"), *own_home.rglob("*")]:
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


def job(url, path="in.jsonl", extra="", input_extra='id = "id"', size=64):
    Path("job.toml").write_text(f"""
task = "feature-extraction"
[input]
path = "{path}"
{input_extra}
[chunk]
size = {size}
[[endpoint]]
kind = "openai"
url = "{url}/v1"
model = "m"
api_key = {{ env = "MOCK_KEY" }}
concurrency = 4
batch_size = 64
[output]
path = "out.parquet"
{extra}
""")
    return "job.toml"


def table():
    return pq.read_table("out.parquet").to_pylist()


def failures():
    found = sorted(Path.cwd().glob("*.run/runs/*/failures.jsonl"))
    return [json.loads(line) for line in found[-1].read_text().splitlines()]


def balanced(ran):
    told = ran.last
    assert told["exit"] == ran.code
    assert told["ok"] + told["partial"] + told["failed"] == told["documents"]
    return told


def damaged(path, *, group, column, bytes_at=200):
    """Overwrites 40 bytes within a page of this column chunk."""
    at = pq.read_metadata(path).row_group(group).column(column).data_page_offset + bytes_at
    raw = bytearray(path.read_bytes())
    raw[at : at + 40] = bytes(40)
    path.write_bytes(raw)


def parquet(path, rows=400, group=100, **options):
    options = {"write_page_checksum": True, "use_dictionary": False} | options
    columns = {"id": list(range(rows)), "text": [text_of(n) for n in range(rows)],
               "note": [f"note {n} {n * n}" for n in range(rows)]}
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)


# Without a checksum and a compression nothing tells such damage.
@pytest.mark.parametrize(("compression", "checksum"), [
    ("none", True), ("snappy", True), ("zstd", True), ("snappy", False), ("zstd", False),
])
def test_fault_18_a_damaged_page_is_refused_or_its_rows_isolated(workdir, textmill, compression, checksum):
    parquet(workdir / "in.parquet", compression=compression, write_page_checksum=checksum)
    damaged(workdir / "in.parquet", group=2, column=1)
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, "in.parquet"), "--json")
        assert ran.code == 6
        assert "in.parquet: row group 2 cannot be read" in ran.err
        assert len(ran.err.splitlines()) <= 2
        assert not Path("out.parquet").exists()
        ran = textmill("run", "job.toml", "--json", "--salvage", "--max-failed", "0.3")
        assert ran.code == 3, ran.err
        assert (balanced(ran)["ok"], ran.last["failed"]) == (300, 100)
        rows = table()
        assert [row["id"] for row in rows] == list(range(400))
        for row in rows:
            bad = 200 <= row["id"] < 300
            assert row["_status"] == ("failed" if bad else "ok")
            assert (row["text"] is None) == (row["vector"] is None) == bad
            assert bad == ("row group 2 is damaged" in (row["_error"] or ""))
        told = failures()
        assert [each["row"] for each in told] == list(range(200, 300))
        assert mock.bill.totals().repeated_inputs == 0
        before, calls = Path("out.parquet").read_bytes(), mock.bill.totals().calls
        assert textmill("run", "job.toml", "--salvage", "--max-failed", "0.3").code == 3
        assert (Path("out.parquet").read_bytes(), mock.bill.totals().calls) == (before, calls)
        ran = textmill("run", "job.toml", "--json", "--salvage")
        assert ran.code == 4  # 100 of 400 are more than a tenth


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("keep", ["", 'keep = ["note"]'])
def test_fault_18_whichever_column_is_damaged_both_passes_call_the_rows_alike(
    workdir, textmill, column, named, keep
):
    parquet(workdir / "in.parquet")
    damaged(workdir / "in.parquet", group=1, column=column)
    names = (f'id = "id"\n{keep}' if named else keep) + "\nsalvage = true"
    with serving(key=KEY) as mock:
        path = job(mock.url, "in.parquet", "[guard]\nmax_failed = 0.3", names)
        ran = textmill("run", path, "--json")
        is_read = column == 1 or not named or (column == 0) or bool(keep)
        assert ran.code == (3 if is_read else 0), ran.err
        assert balanced(ran)["failed"] == (100 if is_read else 0)
        rows = table()
        assert len(rows) == len({row["id"] for row in rows if row["id"] is not None}) + (
            100 if named and column == 0 else 0
        )
        assert [row["text"] for row in rows if row["_status"] == "ok"] == [
            text_of(n) for n in range(400) if not (is_read and 100 <= n < 200)
        ]
        before, calls = Path("out.parquet").read_bytes(), mock.bill.totals().calls
        assert textmill("run", path).code == ran.code
        assert (Path("out.parquet").read_bytes(), mock.bill.totals().calls) == (before, calls)


def test_fault_18_rows_before_the_damage_in_their_row_group_are_kept(workdir, textmill):
    parquet(workdir / "in.parquet", rows=3_000, group=3_000, data_page_size=4_000, compression="none")
    metadata = pq.read_metadata(workdir / "in.parquet").row_group(0).column(1)
    raw = bytearray((workdir / "in.parquet").read_bytes())
    at = metadata.data_page_offset + metadata.total_compressed_size * 3 // 4
    raw[at : at + 40] = bytes(40)
    (workdir / "in.parquet").write_bytes(raw)
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, "in.parquet"), "--json", "--salvage", "--max-failed", "0.5")
        assert ran.code == 3, ran.err
        assert 2_000 <= balanced(ran)["ok"] <= 2_300
        rows = table()
        assert [row["id"] for row in rows] == list(range(3_000))
        assert {row["_status"] for row in rows[: ran.last["ok"]]} == {"ok"}
        assert {row["_status"] for row in rows[ran.last["ok"] :]} == {"failed"}


def test_fault_17_a_bad_footer_is_refused_also_where_pages_may_be_salvaged(workdir, textmill):
    parquet(workdir / "in.parquet")
    (workdir / "in.parquet").write_bytes((workdir / "in.parquet").read_bytes()[:-50])
    with serving(key=KEY) as mock:
        assert textmill("run", job(mock.url, "in.parquet"), "--salvage").code == 6
        assert mock.bill.totals().calls == 0


def test_fault_10_a_column_that_changes_its_type_isolates_those_rows_or_stops(workdir, textmill):
    rows = [{"id": n, "text": text_of(n), "n": n if n < 4_700 else f"n{n}"} for n in range(5_000)]
    write_lines(workdir / "in.jsonl", rows)
    with serving(key=KEY) as mock:
        kept = 'id = "id"\nkeep = ["n"]'
        ran = textmill("run", job(mock.url, input_extra=kept), "--json")
        assert ran.code == 3, ran.err
        assert (balanced(ran)["ok"], ran.last["failed"]) == (4_700, 300)
        assert [row["n"] for row in table()] == [*range(4_700), *[None] * 300]
        assert failures()[0]["reason"] == "`n` must be integer, as in the rows before, got string"
        assert failures()[0]["line"] == 4_701
        Path("out.parquet").unlink()
        ran = textmill("run", "job.toml", "--json", "--max-failed", "0.05")
        assert ran.code == 4
        assert not Path("out.parquet").exists()
        assert mock.bill.totals().repeated_inputs == 0


def test_fault_10_types_that_differ_between_parquet_files_are_united_or_refused(workdir, textmill):
    def write(name, values):
        pq.write_table(pa.table({"id": [name], "text": [text_of(1)], "n": values}), f"in/{name}.parquet")

    Path("in").mkdir()
    write("a", pa.array([1], pa.int32()))
    write("b", pa.array([2**40], pa.int64()))
    write("c", pa.array([0.5], pa.float64()))
    with serving(key=KEY) as mock:
        kept = 'id = "id"\nkeep = ["n"]'
        assert textmill("run", job(mock.url, "in", input_extra=kept)).code == 0
        assert [row["n"] for row in table()] == [1.0, 2.0**40, 0.5]
        write("d", pa.array(["four"]))
        ran = textmill("run", "job.toml")
        assert ran.code == 6
        assert "columns differ" in ran.err


def test_fault_11_late_keys_are_kept(workdir, textmill):
    rows = [{"id": n, "text": text_of(n)} for n in range(1_000)]
    rows[900] |= {"late": {"deep": [1, 2]}, "last": None}
    rows[999]["last"] = "x"
    write_lines(workdir / "in.jsonl", rows)
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, input_extra='id = "id"\nkeep = ["late", "last"]'), "--json")
        assert ran.code == 0, ran.err
        rows = table()
        assert rows[900]["late"] == {"deep": [1, 2]}
        assert (rows[0]["late"], rows[899]["last"], rows[999]["last"]) == (None, None, "x")


def test_fault_19_empty_after_non_empty_is_guarded_for_parquet_too(workdir, textmill):
    parquet(workdir / "in.parquet", rows=5)
    with serving(key=KEY) as mock:
        assert textmill("run", job(mock.url, "in.parquet")).code == 0
        before = Path("out.parquet").read_bytes()
        parquet(workdir / "in.parquet", rows=0)
        assert textmill("run", "job.toml").code == 14
        assert Path("out.parquet").read_bytes() == before
        Path("out.parquet").unlink()
        ran = textmill("run", "job.toml", "--json")
        assert (ran.code, ran.last["documents"], table()) == (0, 0, [])


def test_fault_21_an_input_that_vanishes_during_the_run_is_not_published(workdir, textmill):
    rows = [{"id": n, "text": text_of(n)} for n in range(2_000)]
    write_lines(workdir / "in.jsonl", rows)

    def vanish(*_):
        (workdir / "in.jsonl").unlink(missing_ok=True)
        return 0.0

    with serving(latency=vanish, key=KEY) as mock:
        ran = textmill("run", job(mock.url), "--json")
        assert ran.code == 6
        assert "in.jsonl: changed while it was read (deleted)" in ran.err
        assert not Path("out.parquet").exists()
        mock.latency = 0.0
        write_lines(workdir / "in.jsonl", rows)
        assert textmill("run", "job.toml").code == 0
        assert mock.bill.totals().repeated_inputs == 0
        assert mock.bill.totals().inputs == 2_000


def test_faults_8_and_9_in_kept_and_nested_columns(workdir, textmill):
    good = [{"id": n, "text": text_of(n), "n": 1, "o": {"x": [1]}} for n in range(3)]
    odd = [
        b'{"id": 10, "text": "a", "n": 18446744073709551616}',
        b'{"id": 11, "text": "a", "o": {"x": [-9223372036854775809]}}',
        b'{"id": 12, "text": "a", "n": -Infinity}',
        b'{"id": 13, "text": "a", "o": {"x": [NaN]}}',
        b'{"id": 14, "text": "a", "n": 1e999}',
    ]
    write_lines(workdir / "in.jsonl", [*good[:2], *odd, good[2]])
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, input_extra='id = "id"\nkeep = ["n", "o"]'), "--json")
        assert ran.code == 3, ran.err
        assert (balanced(ran)["ok"], ran.last["failed"]) == (3, 5)
        assert [row["o"] for row in table() if row["_status"] == "ok"] == [{"x": [1]}] * 3
        assert [each["line"] for each in failures()] == [3, 4, 5, 6, 7]


TYPED = {
    "price": pa.array(["1.10", None, "-3.00"]).cast(pa.decimal128(9, 2)),
    "wide": pa.array(["1.10", None, "-3.00"]).cast(pa.decimal256(50, 20)),
    "at": pa.array([1, None, 3], pa.timestamp("ns", "Asia/Shanghai")),
    "day": pa.array([1, None, 3], pa.date32()),
    "took": pa.array([1, None, 3], pa.duration("us")),
    "kind": pa.array(["x", None, "x"]).dictionary_encode(),
    "tree": pa.array([{"a": [1]}, None, {"a": None}], pa.struct([("a", pa.list_(pa.int16()))])),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
    "raw": pa.array([b"\x00\xff", None, b""], pa.binary()),
    "half": pa.array(np.array([1.5, 2.5, 0.0], np.float16)),
    "big": pa.array(["x", None, ""], pa.large_string()),
    "vec": pa.array([[1.0, 2.0], None, [0.0, 1.0]], pa.list_(pa.float32(), 2)),
}


def test_nested_decimal_clock_and_dictionary_columns_pass_through_with_their_types(workdir, textmill):
    ids = pa.array([1, 2, 3])
    source = pa.table({"id": ids, "text": ["a b", None, "c d"], **TYPED})
    pq.write_table(source, "in.parquet")
    with serving(key=KEY) as mock:
        keep = json.dumps(list(TYPED))
        assert textmill("run", job(mock.url, "in.parquet", input_extra=f'id = "id"\nkeep = {keep}')).code == 0
    written = pq.read_table("out.parquet")
    expected = pq.read_table("in.parquet")
    for name in TYPED:
        assert written.schema.field(name).type == expected.schema.field(name).type, name
        assert written[name].combine_chunks().equals(expected[name].combine_chunks()), name


PACKED = {"in.jsonl.gz": gzip.compress, "in.jsonl.zst": lambda raw: pa.compress(raw, "zstd", asbytes=True)}


@pytest.mark.parametrize("name", PACKED)
def test_faults_3_and_17_a_packed_file_that_is_cut_is_refused_before_any_call(workdir, textmill, name):
    write_lines(workdir / "in.jsonl", [{"id": n, "text": text_of(n)} for n in range(500)])
    whole = PACKED[name]((workdir / "in.jsonl").read_bytes())
    (workdir / name).write_bytes(whole[:-9])
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, name), "--salvage")
        assert ran.code == 6
        assert f"{name}: cannot be read" in ran.err
        assert mock.bill.totals().calls == 0
        (workdir / name).write_bytes(whole + PACKED[name](b'{"id": 500, "text": "a second frame"}\n'))
        ran = textmill("run", "job.toml", "--json")
        assert (ran.code, ran.last["ok"]) == (0, 501)


def test_faults_4_12_and_14_of_parquet_rows_are_isolated(workdir, textmill):
    texts = pa.array([b"good 1", b"caf\xe9", None, b"  ", b"x" * 2_000, b"good 2"]).view(pa.string())
    pq.write_table(pa.table({"id": range(6), "text": texts}), "in.parquet")
    with serving(key=KEY) as mock:
        path = job(mock.url, "in.parquet", "[guard]\nmax_row_bytes = 1000")
        ran = textmill("run", path, "--json")
        assert ran.code == 3, ran.err
        assert (balanced(ran)["ok"], ran.last["failed"]) == (4, 2)
        assert [(each["row"], each["reason"]) for each in failures()] == [
            (1, "`text` is not valid UTF-8"),
            (4, "`text` is longer than guard.max_row_bytes = 1,000 bytes"),
        ]
        assert [row["chunk"] for row in table()] == [0, None, None, None, None, 0]
        assert mock.bill.totals().inputs == 2


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_fault_13_a_text_column_that_holds_no_text(workdir, textmill, kind):
    if kind == "parquet":
        pq.write_table(pa.table({"id": [1], "text": [5]}), "in.parquet")
    else:
        write_lines(workdir / "in.jsonl", [{"id": n, "text": {"a": n}} for n in range(30)])
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, f"in.{kind}"))
        assert ran.code == (2 if kind == "parquet" else 4), ran.err
        assert mock.bill.totals().calls == 0


def test_fault_15_one_id_in_two_parquet_files_is_refused_before_any_call(workdir, textmill):
    Path("in").mkdir()
    for name, ids in (("a", [1, 2]), ("b", [3, 2])):
        pq.write_table(pa.table({"id": ids, "text": ["x", "y"]}), f"in/{name}.parquet")
    with serving(key=KEY) as mock:
        ran = textmill("run", job(mock.url, "in"), "--json")
        assert (ran.code, ran.last["exit"]) == (6, 6)
        assert "a.parquet: row 1 and " in ran.err and "b.parquet: row 1: id `2` is not unique" in ran.err
        assert mock.bill.totals().calls == 0
