"""Numbers for people: what is shown can be typed, and no unit overflows."""

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jobs.format import (
    SECONDS,
    byte_size,
    cached_share,
    clock_duration,
    compact_count,
    cost,
    duration,
    local,
    local_now,
    parse_duration,
)
from pipeline.records import Usage

SHOWN = ("s", "min", "h")
"""The units that `duration` writes."""


@pytest.mark.parametrize(("seconds", "shown"), [
    (0, "0.0 s"), (0.44, "0.4 s"), (9.9, "9.9 s"), (10, "10 s"), (59.4, "59 s"), (60, "1 min 0 s"),
    (372.4, "6 min 12 s"), (3_599.4, "59 min 59 s"), (3_599.6, "1 h 0 min"), (3_600, "1 h 0 min"),
    (97_200, "27 h 0 min"), (59.7, "1 min 0 s"), (9.97, "10 s"), (-3, "-3.0 s"),
    (10**9, "277777 h 46 min"),
])  # fmt: skip
def test_durations(seconds, shown):
    assert duration(seconds) == shown


@given(st.floats(0, 10**7) | st.integers(1, 9_999).map(lambda number: number - 0.3))
def test_no_duration_has_sixty_of_anything(seconds):
    words = duration(seconds).split()
    assert all(float(number) < 60 for number in words[0::2][-1:] + words[2:3])


@given(st.floats(0, 10**9))
def test_a_duration_that_is_shown_is_read_as_far_as_it_is_written(seconds):
    read = parse_duration(duration(seconds), SHOWN)
    lost = 0.05 if seconds < 9.95 else 0.5 if seconds < 3_599.5 else 60
    assert abs(read - seconds) <= lost + 1e-6
    assert duration(read) == duration(seconds)


@pytest.mark.parametrize(("typed", "seconds"), [
    ("0", 0), ("90", 90), (" 90s ", 90), ("1.5h", 5_400), ("10 min", 600), ("10m", 600),
    ("6 min 12 s", 372), ("1h30min", 5_400), ("2d", 172_800), ("1w", 604_800), ("1y", 31_536_000),
    ("200ms", 0.2), ("1 day", 86_400),
])  # fmt: skip
def test_what_is_typed_is_read(typed, seconds):
    assert parse_duration(typed, SECONDS) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "typed",
    ["", " ", "s", "-1s", "1e3s", "nan", "1 2", "90 5s", "5s 90", "1d\n2s", "٣s", "1..5s", "1 month",
     "1,000s", "9999999999", "10  min"],
)  # fmt: skip
def test_what_could_mean_something_else_is_none(typed):
    assert parse_duration(typed, SECONDS) is None


def test_only_the_units_of_the_place_are_read():
    assert parse_duration("5m", ("h", "d")) is None
    assert parse_duration("5", ("h", "d")) is None
    assert parse_duration("5h", ("h", "d")) == 18_000


@given(st.text(max_size=20) | st.text("0123456789. smhind", max_size=20))
def test_any_text_is_a_time_that_is_not_negative_or_none(typed):
    read = parse_duration(typed, SECONDS)
    assert read is None or read >= 0


@pytest.mark.parametrize(("seconds", "shown"), [
    (0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00"), (1_623, "27:03"), (97_205, "27:00:05"),
    (-1.5, "-1.5 s"),
])  # fmt: skip
def test_durations_in_few_columns(seconds, shown):
    assert clock_duration(seconds) == shown


@pytest.mark.parametrize(("number", "shown"), [
    (0, "0"), (-3, "-3"), (99_999, "99,999"), (100_000, "100k"), (1_250_000, "1.2M"),
    (999_999, "1000k"), (12_000_000, "12.0M"), (3 * 10**11, "300G"),
])  # fmt: skip
def test_counts_in_few_columns(number, shown):
    assert compact_count(number) == shown


@given(st.integers(0, 10**13))
def test_a_count_has_six_columns_at_most(number):
    assert len(compact_count(number)) <= 6


@pytest.mark.parametrize(("usd", "is_known", "shown"), [
    (0.0, True, "$0.00"), (0.414, True, "$0.41"), (1_234.5, True, "$1,234.50"),
    (0.0, False, "cost unknown"), (0.414, False, "at least $0.41"),
])  # fmt: skip
def test_a_cost_without_a_price_is_unknown(usd, is_known, shown):
    assert cost(Usage(3, cost_usd=usd, unpriced_calls=0 if is_known else 2)) == shown


@pytest.mark.parametrize(("cached", "requests", "shown"), [
    (5_904, 9_632, ["61 % cached"]), (0, 3, ["0 % cached"]), (3, 3, ["100 % cached"]), (0, 0, []),
])  # fmt: skip
def test_a_share_of_nothing_is_left_out(cached, requests, shown):
    assert cached_share(cached, requests) == shown


@pytest.mark.parametrize(("n_bytes", "shown"), [
    (0, "0 bytes"), (1, "1 byte"), (2, "2 bytes"), (999, "999 bytes"), (1_000, "1.0 kB"),
    (1_049, "1.0 kB"), (123_456_789, "123.5 MB"), (7.5e9, "7.5 GB"), (10**18, "1,000,000.0 TB"),
])  # fmt: skip
def test_sizes(n_bytes, shown):
    assert byte_size(n_bytes) == shown


@pytest.mark.parametrize("name", ["UTC-99:99", "A-24", "Foo/Bar", "", ":", "/etc/passwd"])
def test_a_time_zone_that_is_none_counts_as_utc(zone, name):
    zone(name)
    at = datetime(2026, 8, 1, 2, 30, tzinfo=UTC)
    assert local(at) == at
    assert local(datetime(2026, 8, 1, 2, 30)).utcoffset() == timedelta(0)
    assert abs(local_now() - datetime.now(UTC)) < timedelta(hours=1)


def test_local_time_has_the_offset_of_its_zone(zone):
    zone("XYZ-5:30")
    assert local(datetime(2026, 8, 1, 2, 30, tzinfo=UTC)).strftime("%H:%M") == "08:00"
