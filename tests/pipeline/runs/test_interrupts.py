"""What ends a run from outside: signals, and the next moment of a time of day in local time."""

import datetime as dt
import signal

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.errors import Interrupted, OutageError
from pipeline.runs.interrupts import Interrupts, next_moment, steady

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


async def watched(monkeypatch, steps):
    """What the watcher raises while these are done one after the other; what was drained."""
    interrupts, code, drained = Interrupts(), None, []
    draining = interrupts.draining(
        lambda error, grace: drained.append((str(error).split(";")[0], grace))
    )
    send, received = anyio.create_memory_object_stream(9)
    monkeypatch.setattr(anyio, "open_signal_receiver", lambda *_: received)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(interrupts.watch_signals)
            for step in steps:
                match step:
                    case "calls":
                        draining.__enter__()
                    case "done":
                        draining.__exit__(None, None, None)
                    case "error":  # the calls end with one: the run ends with that, and no other
                        error = OutageError("away")
                        draining.__exit__(OutageError, error, None)
                    case "commit":
                        interrupts.is_committing = True
                    case _:
                        send.send_nowait(step)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    except* Interrupted as errors:
        (error,) = errors.exceptions
        code = error.exit_code
    send.close()
    return code, drained


INT, TERM = signal.SIGINT, signal.SIGTERM
BY_INT = "interrupted by SIGINT"


@pytest.mark.parametrize(
    ("steps", "code", "drained"),
    [
        ([INT], 130, []),
        ([TERM], 143, []),
        (["calls", INT], None, [(BY_INT, None)]),
        (["calls", INT, TERM], None, [(BY_INT, None), ("interrupted by SIGTERM", 0.0)]),
        (["calls", "done", INT], 130, []),
        (["calls", INT, "done", TERM], 130, [(BY_INT, None)]),
        (["calls", "error", INT], None, [(BY_INT, None)]),
        (["commit", INT, TERM], None, []),
        (["calls", "done", "commit", TERM], None, []),
    ],
)
def test_a_signal_drains_calls_and_else_ends_the_run_but_never_a_commit(
    monkeypatch, steps, code, drained
):
    assert anyio.run(watched, monkeypatch, steps) == (code, drained)
