"""A check before the first call of an endpoint: known texts are sent again, and compared.

Its requests are ordinary ones. They wait in a queue of their own, ahead of all others of the
endpoint, need a permit, count against rate limits and budget, and are retried like all. Only what
follows differs: their answers are compared and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.dispatch.queue import Group, InFlight, PendingCall, RouteQueue
from pipeline.errors import ERRORS, TextmillError
from pipeline.records import Answer, Failure, Request, Route, Split


class Check(Protocol):
    """What is sent before the first call of an endpoint, and what must come back."""

    @property
    def requests(self) -> Sequence[Request]:
        """The known texts; without any there is no check."""

    def compare(self, request: Request, answer: Answer) -> TextmillError | None:
        """The error that ends the run, if this is not the answer that is known."""

    def end(self, compared: int) -> TextmillError | None:
        """Called once all are settled and none differs; `compared` of them had an answer."""


class CheckQueue(RouteQueue):
    """The requests of a check that are not settled yet."""

    def __init__(self, position: int, check: Check) -> None:
        super().__init__(Route(((position,),)))
        self._check = check
        self._unsettled = len(check.requests)
        self._compared = 0
        self._doubted: set[InFlight] = set()
        for order, request in enumerate(check.requests):
            self.add(InFlight(request, Group(), order, self))

    @property
    def is_done(self) -> bool:
        """True once nothing is left to be sent."""
        return not self._unsettled

    def settle(
        self, outcomes: Sequence[tuple[InFlight, Answer | Split | Failure]]
    ) -> TextmillError | None:
        """Compare these outcomes; the error that ends the run, if there is one.

        An answer that differs is requested once more: a server may fail once, as with any row, but
        a changed model answers so again. A text that is refused says nothing about the model; where
        the endpoint is at fault, the check waits for it, until the outage is too long.
        """
        again: list[InFlight] = []
        for entry, outcome in outcomes:
            if isinstance(outcome, Answer):
                error = self._check.compare(entry.request, outcome)
                if error is not None and entry in self._doubted:
                    return error
                if error is not None:
                    self._doubted.add(entry)
                    again.append(entry)
                    continue
                self._compared += 1
            elif isinstance(outcome, Failure) and ERRORS[outcome.kind].is_endpoints_fault:
                entry.attempts = 0
                again.append(entry)
                continue
            self._unsettled -= 1
        if again:
            self.retry(PendingCall(0.0, again, 0.0))
        return self._check.end(self._compared) if self.is_done else None
