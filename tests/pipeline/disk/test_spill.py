"""Records are read back in the order of insertion, at any buffer size."""

import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disk import spill
from pipeline.disk.spill import Packed, Spill
from pipeline.errors import StorageError

KIND = np.dtype([("name", "V4"), ("at", "<u8")])
BUCKETS = st.lists(st.lists(st.integers(0, 5), max_size=12), max_size=12)


@pytest.fixture(params=[(1, 1), (3, 4), (1_000, 1_000)], scope="module", ids=str)
def small(request):
    """Thresholds: records before a flush, and records before the disk is used."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spill, "FLUSH_ROWS", request.param[0])
        patched.setattr(spill, "PACKED_ROWS", request.param[1])
        yield


def records(numbers):
    return np.array([(b"%04d" % (n % 10_000), n) for n in numbers], KIND)


def filled(batches):
    """A spill of numbered records, and the numbers that each bucket should hold."""
    made, expected, number = Spill(KIND), {}, 0
    for buckets in batches:
        made.add(np.array(buckets, np.int64), records(range(number, number + len(buckets))))
        for bucket in buckets:
            expected.setdefault(bucket, []).append(number)
            number += 1
    return made, expected


@given(batches=BUCKETS)
def test_each_bucket_returns_its_records_in_the_order_of_insertion(small, batches):
    made, expected = filled(batches)
    assert made.buckets() == sorted(expected)
    for bucket in range(7):
        assert made.bucket(bucket).tolist() == records(expected.get(bucket, ())).tolist()
        pieces = [record for piece in made.segments(bucket) for record in piece.tolist()]
        assert pieces == made.bucket(bucket).tolist()


@given(before=BUCKETS, after=BUCKETS)
def test_reading_between_two_writes_changes_nothing(small, before, after):
    made, _ = filled(before)
    made.buckets()
    number = sum(map(len, before))
    for buckets in after:
        made.add(np.array(buckets, np.int64), records(range(number, number + len(buckets))))
        made.bucket(0)
        number += len(buckets)
    whole, expected = filled([*before, *after])
    for bucket in expected:
        assert made.bucket(bucket).tolist() == whole.bucket(bucket).tolist()


@given(count=st.integers(0, 50), cuts=st.lists(st.integers(0, 60), min_size=2, max_size=6))
def test_packed_records_are_read_back_by_position(small, count, cuts):
    packed, every = Packed(KIND), records(range(count))
    for at in range(count):
        packed.add(every[at].tobytes())
        if at % 7 == 0:
            assert packed.slice(at, at + 1).tolist() == every[at : at + 1].tolist()
    for start, stop in zip(sorted(cuts), sorted(cuts)[1:], strict=False):
        assert packed.slice(start, stop).tolist() == every[start:stop].tolist()


def test_many_records_are_read_back(small):
    made, packed = Spill(KIND), Packed(KIND)
    made.add(np.zeros(2_000, np.int64), records(range(2_000)))
    for record in records(range(20_000)):
        packed.add(record.tobytes())
    assert made.bucket(0)["at"].tolist() == list(range(2_000))
    assert packed.slice(9_999, 20_000)["at"].tolist() == list(range(9_999, 20_000))


@pytest.mark.parametrize("kind", ["spill", "packed"])
def test_a_full_temporary_folder_is_an_error_of_storage(monkeypatch, kind):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spill, "PACKED_ROWS", 1)
    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        if kind == "spill":
            made = Spill(KIND)
            made.add(np.zeros(3, np.int64), records(range(3)))
            made.buckets()
        else:
            packed = Packed(KIND)
            packed.add(records(range(3)).tobytes())
            packed.slice(0, 1)
