"""When an outage ends the run: nobody who may do some work has replied for too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.queue import RouteQueue
from pipeline.errors import OutageError
from pipeline.text import printable


def outage_start(state: Sequence[EndpointState], queue: RouteQueue) -> float:
    """When the last endpoint that may do this lane's work stopped replying."""
    return max(state[at].troubled_since for at in queue.positions)


def outage(
    state: Sequence[EndpointState],
    queues: Iterable[RouteQueue],
    now: float,
    max_outage_seconds: float,
) -> OutageError | None:
    """What the run ends with, if work has waited for too long."""
    for queue in queues:
        waited = now - outage_start(state, queue)
        if waited >= max_outage_seconds and (queue.in_flight or queue.oldest is not None):
            names = " or ".join(f"`{state[at].name}`" for at in sorted(queue.positions))
            return OutageError(
                f"endpoint {names}: no answer for {waited:.0f} s "
                f"(run.max_outage_seconds = {max_outage_seconds:g}){_causes(state, queue)}",
                hint="answers so far are kept; run again when the endpoint is back",
            )
    return None


def _causes(state: Sequence[EndpointState], queue: RouteQueue) -> str:
    """What the endpoints of this lane failed with the last time."""
    causes = dict.fromkeys(state[at].trouble for at in sorted(queue.positions))
    return "".join(f"; {printable(each, 200)}" for each in causes if each)
