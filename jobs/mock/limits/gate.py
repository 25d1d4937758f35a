"""The gate in front of a server: one limit, its state, and the count of what passed.

It is the only part of a limit that remembers. The mock on a socket and the simulated server both
stand behind it, each with its own clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from msgspec import Struct

from jobs.mock.limits import headers as told
from jobs.mock.limits import limits
from jobs.mock.limits.figures import Figures, Watch
from jobs.mock.limits.limits import Limit, Verdict
from jobs.mock.protocols import refusals
from jobs.mock.protocols.calls import Reply, Service


class GateResult(Struct, frozen=True):
    """What became of a call at the gate."""

    verdict: Verdict
    headers: tuple[tuple[str, str], ...] = ()
    """What the answer tells about the limit; a refusal has them already."""
    refused: Reply | None = None
    reset: bool = False
    """The connection is reset instead."""
    entered: float = 0.0
    inputs: int = 0

    @property
    def is_open(self) -> bool:
        """The call went through; it ends with `Gate.leave`."""
        return self.verdict.word == "admitted"


class Gate:
    """Lets calls in as the limit has it.

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
        """A server that nobody has called."""
        self.state = limits.start(self._clock())
        self.watch = Watch(self.limit)

    def enter(self, service: Service, model: str, tokens: float, inputs: int) -> GateResult:
        """Whether a call may pass; if so it must `leave`."""
        before = self._clock()
        self.state, verdict = limits.admit(
            self.limit, self.state, before, tokens=tokens, inputs=inputs
        )
        since = self.state.now - (self.state.began or 0.0)
        self.watch.saw(since, tokens, verdict)
        headers = told.headers(self.limit, self.state, verdict, self._wall())
        if verdict.word == "admitted":
            return GateResult(verdict, headers, entered=self.state.now, inputs=inputs)
        reply = self._refusal(service, model, verdict, tokens)
        reset = verdict.word == "outage" and self.limit.outage_status is None
        return GateResult(verdict, (), _with(reply, headers), reset)

    def leave(self, passage: GateResult) -> None:
        """The call has ended: its slots are free."""
        self.state = limits.leave(self.state, inputs=passage.inputs)
        self.watch.busy_seconds += max(0.0, self._clock() - passage.entered)

    def figures(self) -> Figures:
        """What passed, as it stands."""
        return self.watch.figures()

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
        # OpenAI speaks of minutes, whatever it counts by.
        scale = max(1.0, 60 / left.rate.seconds)
        most = left.limit * scale
        used = most - left.left * scale
        want = tokens if verdict.what == "tokens" else 1
        again = told.go_duration(verdict.wait) if math.isfinite(verdict.wait) else None
        return refusals.rate_limited(service, model, verdict.what, most, used, want, again)


def _with(reply: Reply, headers: tuple[tuple[str, str], ...]) -> Reply:
    return Reply(reply.status, reply.body, reply.content_type, (*reply.headers, *headers))
