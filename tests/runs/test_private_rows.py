"""Privacy rules over real HTTP: which bytes reach whom, whatever happens to the server they belong to."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.mock import serving
from tests.support.served import (
    KEY,
    at,
    balanced,
    failures,
    given,
    job,
    paid,
    rows,
    same_as_ever,
    written,
)

RULE = {"column": "sensitive", "equals": True, "endpoints": ["inside"]}


def private(n):
    return n % 2 == 0


def reached(mock, numbers):
    """The rows of these whose text this server was ever sent, in whatever call."""
    sent = b"".join(each.body for each in mock.bill.recorded)
    return [n for n in numbers if f"<{n}>".encode() in sent]


@pytest.mark.parametrize("task", ["feature-extraction", "chat-completion"])
@pytest.mark.parametrize("trouble", [
    "503 x2", "reset x4", "500 x4", "400 match='<4>'", "429 x3 retry-after:0", "html match='<4>'",
    "hang x2", "413 x2",
])  # fmt: skip
def test_private_rows_reach_nobody_else_while_their_server_fails(
    workdir, textmill, monkeypatch, trouble, task
):
    given(workdir, rows(60, sensitive=private))
    # Only a call that hangs needs one; a short one would cut good answers on a busy machine.
    deadline = {"first_byte_seconds": 2.0, "connect_seconds": 2.0} if "hang" in trouble else {}
    model = {"model": "m"} if task == "feature-extraction" else {}
    with (
        serving(key=KEY, record=True) as outside,
        serving([trouble], key=KEY, record=True) as inside,
        serving(key=KEY, record=True) as spare,
    ):
        path = job(workdir, at(outside, "outside", **model),
                   at(inside, "inside", deadline=deadline, **model),
                   at(spare, "spare", fallback=True, **model), task=task, rules=[RULE])
        told = balanced(textmill("run", path, "--json"), code=3 if "<4>" in trouble else 0)
        for mock in (outside, spare):
            assert reached(mock, range(0, 60, 2)) == []
        assert reached(inside, range(0, 60, 2)) == list(range(0, 60, 2))
        if told["failed"]:
            assert [each["id"] for each in failures(workdir)] == [4]
        # Three servers with one model name are compared.
        paid([outside, inside, spare], told, compared=3 * 2 if model else 0)
        if task == "feature-extraction":  # of texts it shows who had a free slot
            same_as_ever(workdir, textmill, monkeypatch, path, outside, inside, spare)
        for mock in (outside, spare):
            assert reached(mock, range(0, 60, 2)) == []


@pytest.mark.parametrize("down", ["503", "gone"])
def test_private_rows_wait_for_their_server_and_the_run_ends_as_an_outage(workdir, textmill, down):
    given(workdir, rows(40, sensitive=private))
    with serving(key=KEY, record=True) as outside, serving([down] if down == "503" else []) as inside:
        url = inside.url
        if down == "gone":
            with serving() as gone:
                url = gone.url
        path = job(workdir, at(outside, "outside"), at(url, "inside"), task="chat-completion",
                   rules=[RULE])
        ran = textmill("run", path, "--json", "--max-outage", "0.7", "--max-start", "0.7")
        first = balanced(ran, code=5)
        assert f"endpoint `inside`: no {'answer' if down == '503' else 'reply'}" in ran.err
        assert reached(outside, range(40)) == list(range(1, 40, 2))
        assert not (workdir / "out.jsonl").exists()
        inside.play()
        path.write_text(path.read_text().replace(url, inside.url))
        second = balanced(textmill("run", path, "--json"))
        assert second["cached"] == 20
        assert [row["_model"] for row in written(workdir)] == ["inside", "outside"] * 20
        paid([outside], first, second)
        assert reached(outside, range(0, 40, 2)) == []


@pytest.mark.parametrize("odd", [None, "true", "false", "", 1, 0, 1.0, [], {}, [True], "missing"],
                         ids=repr)
def test_a_column_that_does_not_plainly_say_otherwise_holds_rows_back(workdir, textmill, odd):
    records = given(workdir, rows(4) if odd == "missing" else rows(4, sensitive=odd))
    with serving(key=KEY, record=True) as outside, serving(key=KEY, record=True) as inside:
        path = job(workdir, at(outside, "outside", model="m"), at(inside, "inside", model="m"),
                   rules=[RULE])
        told = balanced(textmill("run", path, "--json"))
        assert (told["ok"], reached(inside, range(4))) == (len(records), [0, 1, 2, 3])
        assert reached(outside, range(4)) == []
        paid([outside, inside], told)


def test_odd_values_among_plain_ones_never_leave(workdir, textmill):
    odd = [False, None, "false", 0, 0.0, [], {}, "missing", True]
    records = rows(len(odd), sensitive=lambda n: odd[n])
    del records[odd.index("missing")]["sensitive"]
    given(workdir, records)
    with serving(key=KEY, record=True) as outside, serving(key=KEY, record=True) as inside:
        path = job(workdir, at(outside, "outside", model="m"), at(inside, "inside", model="m"),
                   rules=[RULE])
        # What does not fit the column's type is a failed row, as in any column.
        told = balanced(textmill("run", path, "--json"), code=3)
        assert told["ok"] == 4
        assert reached(outside, range(len(odd))) == [0]
        # Row 0 may go to both: two servers with one model name are compared.
        assert reached(inside, range(1, len(odd))) == [1, 7, 8]
        paid([outside, inside], told)


@pytest.mark.parametrize("column", [
    pa.array([None, True, False, None]), pa.array([1, 0, None, 2], pa.int8()),
    pa.array(["true", "false", None, ""]).dictionary_encode(), pa.nulls(4),
    pa.array([1.0, 0.0, None, float("nan")]), pa.array([[True], [], None, [False]]), None,
])  # fmt: skip
def test_a_parquet_column_of_any_type_holds_rows_back(workdir, textmill, column):
    table = pa.table({"id": range(4), "text": [each["text"] for each in rows(4)]})
    if column is not None:
        table = table.append_column("sensitive", column)
    pq.write_table(table, workdir / "in.parquet")
    with serving(key=KEY, record=True) as outside, serving(key=KEY, record=True) as inside:
        path = job(workdir, at(outside, "outside", model="m"), at(inside, "inside", model="m"),
                   rules=[RULE])
        path.write_text(path.read_text().replace("in.jsonl", "in.parquet"))
        balanced(textmill("run", path, "--json"))
        is_bool = column is not None and pa.types.is_boolean(column.type)
        assert reached(outside, range(4)) == ([2] if is_bool else [])


def test_equal_texts_of_private_and_open_rows_are_asked_for_apart(workdir, textmill, monkeypatch):
    same = "The same minutes, <0>, in both files."
    given(workdir, [{"id": n, "text": same, "sensitive": n % 2 == 0} for n in range(10)])
    with serving(key=KEY) as outside, serving(key=KEY) as inside:
        path = job(workdir, at(outside, "outside"), at(inside, "inside"), task="chat-completion",
                   rules=[RULE])
        told = balanced(textmill("run", path, "--json"))
        assert [row["_model"] for row in written(workdir)] == ["inside", "outside"] * 5
        assert [each["requests"] for each in told["endpoints"]] == [1, 1]
        paid([outside, inside], told)
        same_as_ever(workdir, textmill, monkeypatch, path, outside, inside)


def test_rows_that_rules_leave_to_nobody_are_failed_and_never_sent(workdir, textmill):
    given(workdir, rows(40, sensitive=lambda n: n == 3, secret=lambda n: n == 3))
    with serving(key=KEY, record=True) as outside, serving(key=KEY, record=True) as inside:
        path = job(workdir, at(outside, "outside", model="m"), at(inside, "inside", model="m"),
                   rules=[RULE, {"column": "secret", "equals": True, "endpoints": ["outside"]}])
        told = balanced(textmill("run", path, "--json"), code=3)
        assert (told["ok"], told["failed"]) == (39, 1)
        (failure,) = failures(workdir)
        assert failure["reason"] == "the rules of the job allow no endpoint for this row"
        assert reached(outside, [3]) == reached(inside, [3]) == []


def test_a_chunk_of_a_private_row_that_is_too_long_is_split_for_its_own_server_only(workdir, textmill):
    words = " ".join(f"Sentence <{n}> says that the weir stood at {n * 7} mm." for n in range(9))
    given(workdir, [{"id": "x", "text": words, "sensitive": True},
                    *(each | {"id": str(each["id"])} for each in rows(4, sensitive=False))])
    with (
        serving(key=KEY, record=True) as outside,
        serving(key=KEY, record=True, max_input_tokens=40) as inside,
    ):
        path = job(workdir, at(outside, "outside", model="m"), at(inside, "inside", model="m"),
                   rules=[RULE])
        path.write_text(path.read_text().replace("size = 64", "size = 512"))
        balanced(textmill("run", path, "--json"))
        pieces = [row["text"] for row in written(workdir) if row["id"] == "x"]
        assert len(pieces) >= 3 and "".join(pieces) == words
        assert b"Sentence" not in b"".join(each.body for each in outside.bill.recorded)
