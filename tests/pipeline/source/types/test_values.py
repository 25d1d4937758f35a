"""The values of columns: one form for each type, whatever the unit, the layout and the neighbours."""

import datetime as dt
import json
from decimal import Decimal

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from pipeline.parts.json_lines import json_lines
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey
from pipeline.source.types.values import identity_values, lost_in_json, python_values

NOON = 1_704_110_400  # 2024-01-01T12:00:00Z
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@pytest.mark.parametrize("unit", PER_SECOND)
def test_times_have_one_form_for_every_unit(unit):
    tick = PER_SECOND[unit]
    values = [NOON * tick, None]
    for zone, text in ((None, "2024-01-01T12:00:00"), ("UTC", "2024-01-01T12:00:00Z"),
                       ("Asia/Shanghai", "2024-01-01T12:00:00Z"), ("+05:30", "2024-01-01T12:00:00Z"),
                       ("No/Such_Zone", "2024-01-01T12:00:00Z")):  # fmt: skip
        assert python_values(pa.array(values, pa.timestamp(unit, zone))) == [text, None]
    assert python_values(pa.array([90_061 * tick, -tick, 0], pa.duration(unit))) == [
        "P1DT3661S", "-PT1S", "PT0S"]  # fmt: skip
    clock = pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    assert python_values(pa.array([3_661 * tick], clock)) == ["01:01:01"]


@pytest.mark.parametrize(("array", "expected"), [
    (pa.array([NOON * 1000 + 250], pa.timestamp("ms")), ["2024-01-01T12:00:00.25"]),
    (pa.array([NOON * 10**9 + 1], pa.timestamp("ns", "UTC")), ["2024-01-01T12:00:00.000000001Z"]),
    (pa.array([1], pa.time64("ns")), ["00:00:00.000000001"]),
    (pa.array([1], pa.duration("ns")), ["PT0.000000001S"]),
    (pa.array([2**40], pa.timestamp("s")), ["36812-02-20T00:36:16"]),
    (pa.array([-62_200_000_000], pa.timestamp("s")), ["-002-12-17T14:13:20"]),
    (pa.array([1, None], pa.date32()), ["1970-01-02", None]),
    (pa.array([86_400_000], pa.date64()), ["1970-01-02"]),
    (pa.array([[1, None], None], pa.list_(pa.timestamp("ns"))),
     [["1970-01-01T00:00:00.000000001", None], None]),
    (pa.array([{"a": 1}, None], pa.struct([("a", pa.date32())])), [{"a": "1970-01-02"}, None]),
    (pa.array([[1, 2], None], pa.list_(pa.date32(), 2)), [["1970-01-02", "1970-01-03"], None]),
    (pa.array([dt.date(1970, 1, 2), None]).dictionary_encode(), ["1970-01-02", None]),
    (pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8())), [{"a": 1}, {}, None]),
    (pa.array([[(1, "x")], None], pa.map_(pa.int8(), pa.string())), [[{"key": 1, "value": "x"}], None]),
    (pa.array([[("a", [("b", 1)])]], pa.map_(pa.string(), pa.map_(pa.string(), pa.date32()))),
     [{"a": {"b": "1970-01-02"}}]),
    (pa.array([1.5, None], pa.float16()), [1.5, None]),
    (pa.array([b"0123456789abcdef"], pa.uuid()), ["30313233-3435-3637-3839-616263646566"]),
    (pa.array(['{"a": [1]}', "bad", None], pa.json_()), [{"a": [1]}, "bad", None]),
    (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
    (pa.nulls(1), [None]),
])  # fmt: skip
def test_values_as_json_holds_them(array, expected):
    assert python_values(array) == expected
    assert python_values(array.slice(1)) == expected[1:]
    if all(type(each) is not dt.datetime for each in expected):
        assert [json.loads(line)["x"] for line in json_lines(pa.table({"x": array})).splitlines()] == expected


def test_decimals_are_text_and_bytes_base64():
    table = pa.table({"a": pa.array([Decimal("-1.10")], pa.decimal256(60, 2)), "b": [b"\xff\x00"]})
    assert json_lines(table) == b'{"a":"-1.10","b":"/wA="}\n'


@given(st.lists(st.none() | st.lists(st.tuples(st.text(max_size=2), st.none() | st.integers(0, 9)), max_size=3)),
       st.integers(0, 5), st.integers(0, 5))  # fmt: skip
def test_maps_of_any_slice(maps, start, count):
    array = pa.array(maps, pa.map_(pa.string(), pa.int64())).slice(start, count)
    wanted = maps[start : start + count]
    assert python_values(array) == [None if each is None else dict(each) for each in wanted]
    repeats = [each is not None and len(dict(each)) < len(each) for each in wanted]
    assert lost_in_json(array).tolist() == repeats


def test_the_form_of_a_value_does_not_depend_on_its_neighbours():
    kind = pa.list_(pa.timestamp("ns"))
    alone, beside = pa.array([[1000]], kind), pa.array([[1000], [1]], kind)
    for values in (identity_values, python_values):
        assert values(alone)[0] == values(beside)[0]


def test_identities_of_maps_and_json_columns_are_those_of_objects():
    assert identity_values(pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))) == [{"a": 1}]
    assert identity_values(pa.array(['{"a": 1}'], pa.json_())) == [{"a": 1}]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("array", "lost"), [
    (pa.array([1.0, NAN, None, -INF]), [False, True, False, True]),
    (pa.array([1.0, NAN], pa.float16()), [False, True]),
    (pa.array([[1.0], [NAN, 2.0], None, []], pa.list_(pa.float32())), [False, True, False, False]),
    (pa.array([[1.0, 2.0], None, [1.0, INF]], pa.list_(pa.float32(), 2)), [False, False, True]),
    (pa.array([{"a": [NAN]}, {"a": None}, None]), [True, False, False]),
    (pa.array([[("a", NAN)], [("a", 1.0)]], pa.map_(pa.string(), pa.float64())), [True, False]),
    (pa.array([1, 2]), [False, False]),
])  # fmt: skip
def test_values_that_json_lacks(array, lost):
    assert lost_in_json(array).tolist() == lost
    assert lost_in_json(array.slice(1)).tolist() == lost[1:]


def test_what_an_output_in_json_loses_is_said_before_anything_is_paid(tmp_path):
    path = tmp_path / "a.parquet"
    table = {"id": [1, 2, 3], "text": ["a"] * 3, "x": [NAN, 1.0, INF], "y": [NAN] * 3}
    pq.write_table(pa.table(table), path)
    spec = InputSpec(str(path), "text", "id", ("x",), for_json=True)
    assert survey(spec).warnings == (
        f"{path}: `x` holds values in 2 rows that JSON lacks: NaN and infinity become null, of a "
        "repeated key of a map the last value stays",
    )
    assert survey(InputSpec(str(path), "text", "id", ("x",))).warnings == ()
