"""Identities are equal exactly if type and value are; and the hash of the columns used."""

import datetime as dt
import json
import math
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.source import identity
from pipeline.source.files import InputSpec
from pipeline.source.identity import Moment, encode
from pipeline.source.scan import survey
from pipeline.source.types.json_types import ListOf, ObjectOf, widens


def uses(tmp_path, rows, name="in.jsonl", **spec):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = survey(InputSpec(str(path), "text", id="id", **spec))
    return [used for rows in found.rows_by_part() for used in rows["used"].tolist()]


ROW = {"id": 1, "text": "a", "kept": 1.5, "other": 1}


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({"text": "b"}, False), ({"kept": 2.5}, False), ({"kept": None}, False),
        ({"other": 2}, True), ({"more": "x"}, True), ({"kept": "1.5"}, False),
    ],
)  # fmt: skip
def test_a_row_is_unchanged_if_its_used_columns_are(tmp_path, changed, is_same):
    before = uses(tmp_path, [ROW], keep=("kept",))
    assert (uses(tmp_path, [ROW | changed], keep=("kept",)) == before) is is_same


def test_without_keep_all_columns_are_used(tmp_path):
    assert uses(tmp_path, [ROW]) != uses(tmp_path, [ROW | {"other": 2}])


def test_columns_that_prompts_read_are_used(tmp_path):
    before = uses(tmp_path, [ROW], keep=(), fields=("other",))
    assert uses(tmp_path, [ROW | {"other": 2}], keep=(), fields=("other",)) != before


def test_both_formats_give_the_same_hashes_and_minus_zero_is_another_value(tmp_path):
    rows = [{"id": n, "text": "a 水", "kept": [1.0, None, 2.5], "flag": True} for n in range(3)]
    assert uses(tmp_path, rows) == uses(tmp_path, rows, "in.parquet")
    zero = [{"id": 1, "text": "a", "kept": 0.0}]
    minus = [{"id": 1, "text": "a", "kept": -0.0}]
    assert uses(tmp_path, zero) != uses(tmp_path, minus)


def test_a_row_that_ceases_to_fit_its_columns_is_another(tmp_path):
    rows = [{"id": 0, "text": "a", "odd": 1}, {"id": 1, "text": "a", "odd": 2}]
    before = uses(tmp_path, rows, keep=())
    rows[0]["odd"] = "now a string"
    now = uses(tmp_path, rows, keep=())
    assert (now[0] == before[0], now[1] == before[1]) == (True, False)


def test_integers_that_become_floats_are_detected_at_any_depth():
    assert widens("integer", "float")
    assert not widens("float", "float")
    assert widens(ListOf(ObjectOf({"a": "integer"})), ListOf(ObjectOf({"a": "float", "b": None})))
    assert not widens(None, "float")


NUMBERS = st.integers(-2, 2) | st.integers() | st.sampled_from([2**53, 2**53 + 1, 2**1023])
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0**53, 2.0**1023]) | st.floats()
DECIMALS = st.sampled_from([Decimal(text) for text in ("0", "-0", "1", "1.0", "10", "1e1", "1.50")])
MIDNIGHT = dt.datetime(2026, 1, 1)
ELSEWHERE = dt.timezone(dt.timedelta(hours=2))
TIMES = st.sampled_from(
    [MIDNIGHT, MIDNIGHT.date(), MIDNIGHT.time(), MIDNIGHT.replace(tzinfo=dt.UTC),
     MIDNIGHT.replace(hour=2, tzinfo=ELSEWHERE), dt.timedelta(0), dt.timedelta(days=1),
     dt.timedelta(hours=24), Moment("timestamp", 0), Moment("duration", 0), Moment("duration", 1)]
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | NUMBERS | FLOATS | DECIMALS | TIMES
    | st.sampled_from(["", "0", "1", "a", "ab", "\ud800"]) | st.sampled_from([b"", b"a", b"1"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=5,
)


def same(one, other):
    """Whether two values are equal in logical type and value; written for reading, not for speed.

    An integer and a float of that value are one number, an absent key is a null one.
    """
    if is_number(one) and is_number(other):
        if one != one or other != other:
            return one != one and other != other
        return one == other and is_minus_zero(one) == is_minus_zero(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return all(same(one.get(key), other.get(key)) for key in one.keys() | other.keys())
    return one == other


def is_number(value):
    return type(value) in (int, float)


def is_minus_zero(value):
    return value == 0 and math.copysign(1, value) < 0


@given(one=VALUES, other=VALUES)
def test_two_values_have_one_encoding_if_type_and_value_are_equal(one, other):
    assert (encode(one) == encode(other)) == same(one, other)
    assert (identity.of_id(one) == identity.of_id(other)) == same(one, other)


@given(one=SCALARS, other=SCALARS, nested=st.sampled_from([list, dict]))
def test_nested_values_have_one_encoding_if_they_are_equal(one, other, nested):
    def held(value):
        return [value, 0] if nested is list else {"a": value, "b": 0}

    assert (encode(held(one)) == encode(held(other))) == same(one, other)


@given(values=st.lists(VALUES, max_size=4), cut=st.integers(0, 4))
def test_the_nesting_of_values_is_part_of_their_encoding(values, cut):
    """The encoding of a list is not the concatenation of those of its items."""
    if 0 < cut < len(values):
        assert encode([values[:cut], values[cut:]]) != encode(values)
    assert encode([values]) != encode(values)


TEXTS = st.text("aé水\U0001f680\ud800", max_size=12)


@given(row=st.dictionaries(st.sampled_from("abc"), TEXTS | VALUES, max_size=3), text=TEXTS)
def test_a_long_text_is_encoded_in_pieces_that_join_to_the_same(row, text):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(identity, "_PIECE_CHARS", 2)
        for value in (row, text):
            assert b"".join(identity.encode_pieces(value)) == encode(value)
        in_pieces = identity.of_content(row)
    assert in_pieces == identity.of_content(row)


@given(value=VALUES)
def test_an_id_a_content_and_raw_bytes_never_share_an_identity(value):
    content, digest = identity.of_content({"id": value}), b"d" * 32
    names = [identity.of_id(value), content, identity.of_bytes(digest), identity.of_id(digest)]
    names += [identity.of_occurrence(content, nth) for nth in range(3)]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {16}


@given(
    st.lists(
        st.tuples(st.binary(max_size=2), st.binary(max_size=2), st.integers(0, 2)), unique=True
    )
)
def test_a_chunk_is_named_by_its_document_its_text_and_its_occurrence(chunks):
    names = {identity.chunk_id(*chunk) for chunk in chunks}
    assert len(names) == len(chunks)
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def test_identities_never_change():
    """Outputs and caches of every user hold them: a change makes every row a new one."""
    assert identity.of_id("r-17").hex() == "57f547a097029b3d1a973593b33bf6df"
    assert identity.of_content({"text": "a", "n": 1, "gone": None}).hex() == "b572b8e82fd114255956c46b0d5d49c2"
    assert identity.chunk_id(b"i" * 16, b"text", 0) == "fcbf5b27e43ce000e80fd4d6c1f1bd9d"
