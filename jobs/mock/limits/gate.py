"""The gate in front of a server: one limit, its state, and the counts of its traffic.

It is the only stateful part of a limit. The mock on a socket and the simulated server both use it,
each with its own clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from msgspec import Struct

from jobs.mock.limits import headers as limit_headers
from jobs.mock.limits import limits
from jobs.mock.limits.figures import Figures, Traffic
from jobs.mock.limits.limits import Limit, Verdict
from jobs.mock.limits.work import Workers
from jobs.mock.protocols import refusals
from jobs.mock.protocols.calls import Reply, Service


class GateResult(Struct, frozen=True):
    """The decision of the gate about a call."""

    verdict: Verdict
    headers: tuple[tuple[str, str], ...] = ()
    """Rate limit headers of the answer; a refusal has them already."""
    refused: Reply | None = None
    reset: bool = False
    """The connection is reset instead."""
    entered: float = 0.0
    inputs: int = 0

    @property
    def is_open(self) -> bool:
        """True if the call passed; it ends with `Gate.leave`."""
        return self.verdict.word == "admitted"


class Gate:
    """Admits calls according to the limit.

    Units: `clock` in seconds, never set back; `wall` in seconds since 1970.
    """

    def __init__(
        self,
        limit: Limit,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self._clock = clock
        self._wall = wall
        self.reset()

    def reset(self) -> None:
        """Reset to the state before the first call."""
        self.state = limits.start(self._clock())
        self.traffic = Traffic(self.limit)
        self.workers = Workers(self._workers)

    def enter(self, service: Service, model: str, tokens: float, inputs: int) -> GateResult:
        """Decide about a call; an admitted call must `leave`."""
        before = self._clock()
        self.state, verdict = limits.admit(
            self.limit, self.state, before, tokens=tokens, inputs=inputs
        )
        since = self.state.now - (self.state.began or 0.0)
        self.traffic.count(since, tokens, verdict)
        headers = limit_headers.headers(self.limit, self.state, verdict, self._wall())
        if verdict.word == "admitted":
            return GateResult(verdict, headers, entered=self.state.now, inputs=inputs)
        reply = self._refusal(service, model, verdict, tokens)
        reset = verdict.word == "outage" and self.limit.outage_status is None
        return GateResult(verdict, (), _add_headers(reply, headers), reset)

    def leave(self, result: GateResult) -> None:
        """Free the slots of a call that has ended."""
        self.state = limits.leave(self.state, inputs=result.inputs)
        self.traffic.busy_seconds += max(0.0, self._clock() - result.entered)

    def figures(self) -> Figures:
        """The current traffic figures."""
        return self.traffic.figures()

    def _workers(self) -> float | None:
        if self.limit.workers is None:
            return None
        return self.limit.workers * limits.factor(
            self.limit, self._clock() - (self.state.began or 0.0)
        )

    def _refusal(self, service: Service, model: str, verdict: Verdict, tokens: float) -> Reply:
        match verdict.word:
            case "outage":
                return refusals.refusal(service, self.limit.outage_status or 503, model)
            case "cold":
                return refusals.loading(model, 503, math.ceil(verdict.wait))
            case "rate" | "slots" if self.limit.refuse_status != 429:
                return refusals.refusal(service, self.limit.refuse_status, model)
            case "slots":
                return refusals.crowded(service)
        left = limits.remaining(self.limit, self.state)[verdict.what]
        # OpenAI reports per minute, whatever the window of its counter.
        scale = max(1.0, 60 / left.rate.seconds)
        total = left.limit * scale
        used = total - left.left * scale
        want = tokens if verdict.what == "tokens" else 1
        wait = limit_headers.go_duration(verdict.wait) if math.isfinite(verdict.wait) else None
        return refusals.rate_limited(service, model, verdict.what, total, used, want, wait)


def _add_headers(reply: Reply, headers: tuple[tuple[str, str], ...]) -> Reply:
    return Reply(reply.status, reply.body, reply.content_type, (*reply.headers, *headers))
