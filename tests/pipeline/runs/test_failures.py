"""The journal of final failures: durable, torn, damaged."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.errors import StorageError
from pipeline.records import Failure
from pipeline.runs.failures import FailureJournal

FAILURES = st.builds(
    Failure, st.sampled_from(["poison", "invalid", "transient"]),
    st.text(st.characters(exclude_categories=())), st.integers(1, 20),
)
ENTRIES = st.lists(st.tuples(st.binary(min_size=1, max_size=40), FAILURES), max_size=8)
POISON, LATE = Failure("poison", "no\nway \u2028", 1), Failure("transient", "500", 12)


def test_without_failures_there_is_no_file(tmp_path):
    journal = FailureJournal(tmp_path / "journal")
    journal.put_many([])
    assert journal.load() == {}
    assert list(tmp_path.iterdir()) == []


@given(st.lists(ENTRIES, max_size=5))
def test_what_was_put_is_loaded_by_whoever_opens_it_next(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("j") / "journal"
    journal = FailureJournal(path)
    for batch in batches:
        journal.put_many(batch)
    journal.close()
    assert FailureJournal(path).load() == dict(pair for batch in batches for pair in batch)


@given(ENTRIES, ENTRIES, st.integers(0, 2_000))
def test_a_torn_tail_costs_the_record_that_was_torn_and_no_later_one(
    tmp_path_factory, before, after, cut
):
    path = tmp_path_factory.mktemp("j") / "journal"
    path.touch()
    whole = FailureJournal(path)
    lengths = [0]
    for pair in before:
        whole.put_many([pair])
        lengths.append(path.stat().st_size)
    whole.close()
    raw = path.read_bytes()[:cut]
    path.write_bytes(raw)
    survived = before[: sum(length <= len(raw) for length in lengths) - 1]
    stands = [dict(survived)]
    if len(raw) + 1 in lengths and len(raw):  # only the line's end is missing
        stands.append(dict(before[: len(survived) + 1]))
    assert FailureJournal(path).load() in stands
    again = FailureJournal(path)
    again.put_many(after)
    again.close()
    assert FailureJournal(path).load() in [each | dict(after) for each in stands]


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_costs_one_record_and_never_makes_a_false_one(tmp_path_factory, at, bits):
    path = tmp_path_factory.mktemp("j") / "journal"
    pairs = [(bytes([n]) * 32, Failure("poison", f"reason {n}", n + 1)) for n in range(5)]
    journal = FailureJournal(path)
    journal.put_many(pairs)
    journal.close()
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= bits
    path.write_bytes(raw)
    found = FailureJournal(path).load()
    assert found.items() <= dict(pairs).items()
    assert len(found) >= 3  # a line's end may be among it


@pytest.mark.parametrize(("kind", "left"), [("all", []), ("poison", [b"b"]), ("transient", [b"a"]),
                                            ("invalid", [b"a", b"b"])])
def test_failures_of_a_class_are_dropped_to_be_tried_again(tmp_path, kind, left):
    journal = FailureJournal(tmp_path / "journal")
    journal.put_many([(b"a", POISON), (b"b", LATE)])
    assert journal.drop(kind) == 2 - len(left)
    assert list(journal.load()) == left
    journal.put_many([(b"c", POISON)])
    assert list(FailureJournal(tmp_path / "journal").load()) == [*left, b"c"]
    assert [each.name for each in tmp_path.iterdir()] == ["journal"]


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "journal").mkdir()
    with pytest.raises(StorageError, match=r"journal: cannot be written \(Is a directory"):
        FailureJournal(tmp_path / "journal").put_many([(b"a", POISON)])


def test_a_dropped_journal_is_gone_and_can_begin_again(tmp_path):
    journal = FailureJournal(tmp_path / "journal")
    journal.put_many([(b"a", POISON)])
    journal.discard()
    journal.discard()
    assert list(tmp_path.iterdir()) == []
    journal.put_many([(b"b", LATE)])
    assert journal.load() == {b"b": LATE}
