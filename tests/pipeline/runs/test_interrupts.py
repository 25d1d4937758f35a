"""The next moment of a time of day, in local time, over the changes of the clocks."""

import datetime as dt
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.runs.interrupts import next_moment, steady


@pytest.fixture
def zone(monkeypatch):
    def use(name):
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"


def moment(text):
    return dt.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(("now", "until", "then"), [
    ("2026-11-20T21:00:00+01:00", "06:00", "2026-11-21T06:00:00+01:00"),
    ("2026-11-20T05:59:59+01:00", "06:00", "2026-11-20T06:00:00+01:00"),
    ("2026-11-20T06:00:00+01:00", "06:00", "2026-11-21T06:00:00+01:00"),
    ("2026-11-20T06:00:00+01:00", "06:00:30", "2026-11-20T06:00:30+01:00"),
    ("2026-12-31T23:00:00+01:00", "00:00", "2027-01-01T00:00:00+01:00"),
    ("2026-03-28T22:00:00+01:00", "06:00", "2026-03-29T06:00:00+02:00"),  # 7 hours, not 8
    ("2026-10-24T22:00:00+02:00", "06:00", "2026-10-25T06:00:00+01:00"),
    ("2026-03-29T01:00:00+01:00", "02:30", "2026-03-29T03:30:00+02:00"),  # there is no 02:30
    ("2026-10-25T02:15:00+02:00", "02:30", "2026-10-25T02:30:00+02:00"),  # the first of two
    ("2026-10-25T02:45:00+02:00", "02:30", "2026-10-25T02:30:00+01:00"),  # the second
])
def test_it_is_the_next_such_moment(zone, now, until, then):
    zone(BERLIN)
    assert abs(next_moment(until, moment(now)) - moment(then)) in (0, 3_600 * ("02:30" in until))


@given(st.floats(0, 4e9), st.integers(0, 23), st.integers(0, 59))
def test_it_is_within_a_day_and_an_hour(now, hour, minute):
    then = next_moment(f"{hour:02d}:{minute:02d}", now)
    assert now < then <= now + 25 * 3_600


def test_the_clock_that_measures_it_goes_on():
    assert steady() <= steady()
