"""When an outage ends the run: nobody who may serve a queue replies, and nothing else can be done.

An endpoint that is given up ends nothing while another one may answer its rows, and is still tested
after each of its pauses. Rows that only it may answer wait while others are answered, at most for
`run.max_outage_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.queue import RouteQueue
from pipeline.errors import OutageError
from pipeline.records import Stop
from pipeline.text import printable


def outage_end(states: Sequence[EndpointState], queue: RouteQueue, patience: Stop) -> float:
    """The time at which the last endpoint that may serve this queue is given up."""
    return max(states[position].ends(patience) for position in queue.positions)


def outage(
    states: Sequence[EndpointState], queues: Iterable[RouteQueue], now: float, patience: Stop
) -> OutageError | None:
    """The error that ends the run, if its queues with work have waited for too long."""
    waiting = [queue for queue in queues if queue.in_flight or queue.oldest is not None]
    away = [
        queue
        for queue in waiting
        if all(states[position].is_away(now, patience) for position in queue.positions)
    ]
    for queue in away:
        serving = [states[position] for position in sorted(queue.positions)]
        is_over = now - max(each.absence.since for each in serving) >= patience.max_outage_seconds
        if is_over or len(away) == len(waiting):
            return _error(serving, now, patience)
    return None


def given_up(states: Sequence[EndpointState], now: float, patience: Stop) -> Iterator[str]:
    """A line for each endpoint that is given up since the last time, while the run continues."""
    for state in states:
        if not state.is_given_up and state.is_away(now, patience):
            state.is_given_up = True
            reason = state.absence_reason(now, patience)
            yield f"endpoint `{state.name}`: {reason}; {_last_error(state)}; the run continues"


def _error(serving: Sequence[EndpointState], now: float, patience: Stop) -> OutageError:
    names = " or ".join(f"`{state.name}`" for state in serving)
    last = max(serving, key=lambda state: state.ends(patience))
    errors = dict.fromkeys(map(_last_error, serving))
    hints = [state.absence.error.hint for state in serving if state.absence.error is not None]
    return OutageError(
        f"endpoint {names}: {last.absence_reason(now, patience)}; {'; '.join(errors)}",
        hint=next(filter(None, hints), None)
        or "answers so far are kept; run again when the endpoint is back",
    )


def _last_error(state: EndpointState) -> str:
    """The latest error of an endpoint; with its URL where that has never replied."""
    absence = state.absence
    place = "" if absence.has_replied else f"{printable(state.endpoint.url, 200)}: "
    return f"{place}{printable(str(absence.error), 200)}"
