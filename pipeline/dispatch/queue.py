"""Requests on their way, in lanes: who waits for them, and which are to be sent next.

A lane holds the requests of one route; what fails for good in one tier of it goes on in the lane of
the tiers that are left. Keys are held here, never answers.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence

import anyio

from pipeline.records import Endpoint, Failure, Request, Route


class Group:
    """Documents that travel together; it is whole when each of their requests is settled."""

    __slots__ = ("unsettled", "whole")

    def __init__(self) -> None:
        self.unsettled = 0
        self.whole = anyio.Event()


class Flight:
    """A request on its way, the groups that wait for it, and the attempts that it used up."""

    __slots__ = ("attempts", "groups", "order", "request", "route")

    def __init__(self, request: Request, group: Group, order: int) -> None:
        self.request = request
        self.groups = [group]
        self.order = order
        self.route = request.route
        """What is left of its route."""
        self.attempts = 0
        """At the endpoints that are asked now."""


class Halved:
    """A call that was refused as too large: if both halves are answered, it was the size."""

    __slots__ = ("answered", "position", "size")

    def __init__(self, position: int, size: int) -> None:
        self.position = position
        """Of the endpoint that refused it; another one may answer the halves."""
        self.size = size
        """Of the larger half."""
        self.answered = 0


class Again:
    """A call to be made again, as it was: its requests are not joined by others."""

    __slots__ = ("cost", "flights", "halved", "order", "ready")

    def __init__(
        self, ready: float, flights: list[Flight], cost: float, halved: Halved | None = None
    ) -> None:
        self.ready = ready
        self.flights = flights
        self.cost = cost
        """Of the retry budget."""
        self.halved = halved
        self.order = flights[0].order

    def __lt__(self, other: Again) -> bool:
        return (self.ready, self.order) < (other.ready, other.order)


class Lane:
    """The requests of one route that are to be sent: new ones, and calls to be made again."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.positions = frozenset(route.positions)
        self.under_way = 0
        """Requests of calls that are not back yet."""
        self._fresh: deque[Flight] = deque()
        self._again: list[Again] = []

    def add(self, flight: Flight) -> None:
        """A request that was not sent yet."""
        self._fresh.append(flight)

    def repeat(self, again: Again) -> None:
        """A call that is to be made again when it is ready."""
        heapq.heappush(self._again, again)

    def next(self, now: float, endpoint: Endpoint, batch_size: int) -> Again | None:
        """The next call for this endpoint, still in the lane; None: nothing is to go now.

        Retries go before new work, the oldest request first. Asking changes nothing: who asks may
        not be who takes it.
        """
        if self._again and self._again[0].ready <= now:
            oldest = self._again[0]
            packed = _packed(oldest.flights, endpoint, batch_size)
            if len(packed) == len(oldest.flights):
                return oldest
            # It was packed for an endpoint that takes more at once, or before that was learned.
            return Again(oldest.ready, packed, oldest.cost)
        if not self._fresh:
            return None
        return Again(now, _packed(self._fresh, endpoint, batch_size), 0.0)

    def took(self, call: Again) -> None:
        """The call that `next` gave goes out."""
        size = len(call.flights)
        self.under_way += size
        if self._again and self._again[0].flights[0] is call.flights[0]:
            whole = heapq.heappop(self._again)
            if rest := whole.flights[size:]:
                self.repeat(Again(whole.ready, rest, whole.cost))
        else:
            for _ in call.flights:
                self._fresh.popleft()

    def ready_in(self, now: float) -> float:
        """Seconds until a call is to be made again; infinity: none is."""
        return max(0.0, self._again[0].ready - now) if self._again else float("inf")

    @property
    def oldest(self) -> int | None:
        """The order of the oldest request; None: the lane is empty."""
        heads = [self._fresh[0].order] if self._fresh else []
        heads += [self._again[0].order] if self._again else []
        return min(heads, default=None)


class Flights:
    """The table of what is on its way, by name, and the lanes in which it waits."""

    def __init__(self, failures: dict[bytes, Failure]) -> None:
        self.failures = failures
        """Final failures of this run, by flight: an equal request later is not sent again."""
        self.splits: set[bytes] = set()
        """Flights of this run that are too long for the model: their pieces are to be admitted."""
        self.lanes: dict[Route, Lane] = {}
        self._open: dict[bytes, Flight] = {}
        self._orders = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def join(self, group: Group, request: Request) -> Flight | None:
        """Let the group wait for this request; the flight, where it is a new one."""
        flight = self._open.get(request.flight)
        if flight is not None:
            flight.groups.append(group)
            group.unsettled += 1
            return None
        if request.flight in self.failures:
            return None
        flight = self._open[request.flight] = Flight(request, group, next(self._orders))
        group.unsettled += 1
        return flight

    def lane(self, route: Route) -> Lane:
        """The lane of this route."""
        lane = self.lanes.get(route)
        if lane is None:
            lane = self.lanes[route] = Lane(route)
        return lane

    def waiting(self, position: int) -> list[Lane]:
        """The lanes with work that the endpoint at this position may do, the oldest first."""
        mine = [lane for lane in self.lanes.values() if position in lane.positions]
        if len(mine) > 1:
            mine = sorted((lane for lane in mine if lane.oldest is not None), key=_oldest)
        return mine

    def settle(self, flight: Flight) -> None:
        """It has its outcome: whoever waits for nothing else is whole."""
        del self._open[flight.request.flight]
        for group in flight.groups:
            group.unsettled -= 1
            if not group.unsettled:
                group.whole.set()


def _oldest(lane: Lane) -> int:
    oldest = lane.oldest
    assert oldest is not None
    return oldest


def _packed(flights: Sequence[Flight], endpoint: Endpoint, batch_size: int) -> list[Flight]:
    """The first of these that fit one call, at least one."""
    packed = [flights[0]]
    tokens = packed[0].request.tokens
    for flight in itertools.islice(flights, 1, batch_size):
        tokens += flight.request.tokens
        if tokens > endpoint.batch_tokens:
            break
        packed.append(flight)
    return packed
