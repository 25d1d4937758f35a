"""Three waits for an endpoint: until its first reply, while its model loads, and in an outage."""

from math import inf

import pytest

from pipeline.errors import EndpointError
from pipeline.limits.absence import ANSWERING, Absence
from pipeline.records import Stop

PATIENCE = Stop(max_start_seconds=60.0, max_outage_seconds=1_800.0)
WATCHED = Stop(max_start_seconds=60.0, is_attended=True)
REFUSED = EndpointError("unreachable", "connection refused")
MISSPELT = EndpointError("unknown_host", "name not found")
SILENT = EndpointError("ambiguous", "no complete answer within 130 s")
BUSY = EndpointError("overload", "503", status=503)
LOADING = EndpointError("loading", "503 model is loading", status=503)


@pytest.mark.parametrize(("failures", "before", "ends", "reason"), [
    ([], Absence(), inf, None),
    ([(5, REFUSED), (9, REFUSED)], Absence(), 65, "no reply for 70 s (run.max_start_seconds = 60)"),
    ([(5, SILENT)], Absence(), 65, "no reply for 70 s (run.max_start_seconds = 60)"),
    ([(5, MISSPELT)], Absence(), 65, "no reply for 70 s (run.max_start_seconds = 60)"),
    # A reply of any status shows that there is a server: the outage counts from it.
    ([(5, BUSY)], Absence(), 1_805, "no answer for 70 s (run.max_outage_seconds = 1800)"),
    ([(5, REFUSED), (50, BUSY)], Absence(), 1_850, "no answer for 25 s (run.max_outage_seconds = 1800)"),
    ([(5, REFUSED)], ANSWERING, 1_805, "no answer for 70 s (run.max_outage_seconds = 1800)"),
    # A loading model has a time of its own, whatever came between.
    ([(5, LOADING), (9, LOADING)], Absence(), 905, "no answer for 70 s (endpoint.deadline.loading_seconds = 900)"),
    ([(5, LOADING), (9, BUSY)], Absence(), 1_809, "no answer for 66 s (run.max_outage_seconds = 1800)"),
    ([(5, LOADING), (9, BUSY), (20, LOADING)], Absence(), 905, "no answer for 70 s (endpoint.deadline.loading_seconds = 900)"),
])  # fmt: skip
def test_a_wait_has_the_bound_of_its_cause(failures, before, ends, reason):
    absence = before
    for started, error in failures:
        absence = absence.failed(started, error)
    assert absence.ends(PATIENCE, 900.0) == ends
    if reason:
        assert absence.reason(75.0, PATIENCE, 900.0) == reason


def test_where_a_person_watches_a_wrong_name_is_given_up_at_once_unless_it_has_replied():
    assert Absence().failed(5.0, MISSPELT).ends(WATCHED, 900.0) == 5.0
    assert Absence().failed(5.0, MISSPELT).reason(5.0, WATCHED, 900.0) == "no reply"
    assert Absence().failed(5.0, REFUSED).ends(WATCHED, 900.0) == 65.0
    assert ANSWERING.failed(5.0, MISSPELT).ends(WATCHED, 900.0) == 1_805.0
