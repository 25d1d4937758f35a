"""When an outage ends the run: no endpoint that may serve a queue has replied for too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.queue import RouteQueue
from pipeline.errors import OutageError
from pipeline.text import printable


def outage_start(states: Sequence[EndpointState], queue: RouteQueue) -> float:
    """The time at which the last endpoint that may serve this queue stopped replying."""
    return max(states[position].failing_since for position in queue.positions)


def outage(
    states: Sequence[EndpointState],
    queues: Iterable[RouteQueue],
    now: float,
    max_outage_seconds: float,
) -> OutageError | None:
    """The error that ends the run, if a queue with work has waited for too long."""
    for queue in queues:
        waited = now - outage_start(states, queue)
        if waited >= max_outage_seconds and (queue.in_flight or queue.oldest is not None):
            names = " or ".join(f"`{states[at].name}`" for at in sorted(queue.positions))
            return OutageError(
                f"endpoint {names}: no answer for {waited:.0f} s "
                f"(run.max_outage_seconds = {max_outage_seconds:g}){_last_errors(states, queue)}",
                hint="answers so far are kept; run again when the endpoint is back",
            )
    return None


def _last_errors(states: Sequence[EndpointState], queue: RouteQueue) -> str:
    """The latest error of each endpoint of this queue."""
    errors = dict.fromkeys(states[at].last_error for at in sorted(queue.positions))
    return "".join(f"; {printable(error, 200)}" for error in errors if error)
