"""How long an endpoint brings no answers, and when the run stops waiting for it. Pure values.

Three waits have a bound each. A server that has not sent a single reply in this run is probably
not there, or not at this URL: `run.max_start_seconds`. A model that is loading needs as long as it
needs: `endpoint.deadline.loading_seconds`. A server that worked will work again:
`run.max_outage_seconds`, which counts from its first reply.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from pipeline.errors import EndpointError
from pipeline.records import Stop


class Absence(NamedTuple):
    """Failed calls without an answer among them. Units: seconds on the caller's monotonic clock.

    A reply of any status shows that there is a server: 429, 503 and a loading model are replies.
    """

    has_replied: bool = False
    failing_since: float = inf
    """Start of the earliest failed call since the last answer, or since the first reply."""
    loading_since: float = inf
    """The same for calls that a loading model refused."""
    error: EndpointError | None = None
    """The latest failure; None after an answer."""

    @property
    def since(self) -> float:
        """Start of the earliest of these calls; infinity: the endpoint answers."""
        return min(self.failing_since, self.loading_since)

    def failed(self, started: float, error: EndpointError) -> Absence:
        """With a call more that failed through the endpoint's fault."""
        before = self
        if error.status is not None and not self.has_replied:
            before = Absence(has_replied=True)
        if error.facts.is_loading:
            return before._replace(loading_since=min(before.loading_since, started), error=error)
        return before._replace(failing_since=min(before.failing_since, started), error=error)

    def ends(self, patience: Stop, loading_seconds: float) -> float:
        """The time at which the endpoint is given up, unless it replies before; infinity: it
        answers."""
        since, seconds, _ = self._wait(patience, loading_seconds)
        return since + seconds

    def reason(self, now: float, patience: Stop, loading_seconds: float) -> str:
        """`no reply for 60 s (run.max_start_seconds = 60)`."""
        since, seconds, key = self._wait(patience, loading_seconds)
        noun = "answer" if self.has_replied else "reply"
        if not seconds:
            return f"no {noun}"
        return f"no {noun} for {now - since:.0f} s ({key} = {seconds:g})"

    def _wait(self, patience: Stop, loading_seconds: float) -> tuple[float, float, str]:
        """Start and bound of the present wait, and the key of the job file that bounds it."""
        if self.has_replied and self.error is not None and self.error.facts.is_loading:
            return self.loading_since, loading_seconds, "endpoint.deadline.loading_seconds"
        if self.has_replied or self.error is None:
            return self.failing_since, patience.max_outage_seconds, "run.max_outage_seconds"
        # A person corrects a wrong name at once; at night, a name server may come back.
        is_hopeless = patience.is_attended and self.error.facts.is_often_misspelt
        seconds = 0.0 if is_hopeless else patience.max_start_seconds
        return self.failing_since, seconds, "run.max_start_seconds"


ANSWERING = Absence(has_replied=True)
"""After a reply that is an answer, or an error that is not the endpoint's fault."""
