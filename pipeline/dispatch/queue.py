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


class InFlight:
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


class SplitBatch:
    """A call that was refused as too large: if both halves are answered, it was the size."""

    __slots__ = ("answered", "position", "size")

    def __init__(self, position: int, size: int) -> None:
        self.position = position
        """Of the endpoint that refused it; another one may answer the halves."""
        self.size = size
        """Of the larger half."""
        self.answered = 0


class PendingCall:
    """A call to be made again, as it was: its requests are not joined by others."""

    __slots__ = ("cost", "entries", "order", "ready", "split_batch")

    def __init__(
        self,
        ready: float,
        entries: list[InFlight],
        cost: float,
        split_batch: SplitBatch | None = None,
    ) -> None:
        self.ready = ready
        self.entries = entries
        self.cost = cost
        """Of the retry budget."""
        self.split_batch = split_batch
        self.order = entries[0].order

    def __lt__(self, other: PendingCall) -> bool:
        return (self.ready, self.order) < (other.ready, other.order)


class RouteQueue:
    """The requests of one route that are to be sent: new ones, and calls to be made again."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.positions = frozenset(route.positions)
        self.in_flight = 0
        """Requests of calls that are not back yet."""
        self._new: deque[InFlight] = deque()
        self._retries: list[PendingCall] = []

    def add(self, entry: InFlight) -> None:
        """A request that was not sent yet."""
        self._new.append(entry)

    def retry(self, again: PendingCall) -> None:
        """A call that is to be made again when it is ready."""
        heapq.heappush(self._retries, again)

    def next(self, now: float, endpoint: Endpoint, batch_size: int) -> PendingCall | None:
        """The next call for this endpoint, still in the lane; None: nothing is to go now.

        Retries go before new work, the oldest request first. Asking changes nothing: who asks may
        not be who takes it.
        """
        if self._retries and self._retries[0].ready <= now:
            oldest = self._retries[0]
            packed = _packed(oldest.entries, endpoint, batch_size)
            if len(packed) == len(oldest.entries):
                return oldest
            # It was packed for an endpoint that takes more at once, or before that was learned.
            return PendingCall(oldest.ready, packed, oldest.cost)
        if not self._new:
            return None
        return PendingCall(now, _packed(self._new, endpoint, batch_size), 0.0)

    def mark_sent(self, call: PendingCall) -> None:
        """The call that `next` gave goes out."""
        size = len(call.entries)
        self.in_flight += size
        if self._retries and self._retries[0].entries[0] is call.entries[0]:
            whole = heapq.heappop(self._retries)
            if rest := whole.entries[size:]:
                self.retry(PendingCall(whole.ready, rest, whole.cost))
        else:
            for _ in call.entries:
                self._new.popleft()

    def ready_in(self, now: float) -> float:
        """Seconds until a call is to be made again; infinity: none is."""
        return max(0.0, self._retries[0].ready - now) if self._retries else float("inf")

    @property
    def oldest(self) -> int | None:
        """The order of the oldest request; None: the lane is empty."""
        heads = [self._new[0].order] if self._new else []
        heads += [self._retries[0].order] if self._retries else []
        return min(heads, default=None)


class InFlightTable:
    """The table of what is on its way, by name, and the lanes in which it waits."""

    def __init__(self, failures: dict[bytes, Failure]) -> None:
        self.failures = failures
        """Final failures of this run, by flight: an equal request later is not sent again."""
        self.splits: set[bytes] = set()
        """Flights of this run that are too long for the model: their pieces are to be admitted."""
        self.queues: dict[Route, RouteQueue] = {}
        self._open: dict[bytes, InFlight] = {}
        self._orders = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def join(self, group: Group, request: Request) -> InFlight | None:
        """Let the group wait for this request; the flight, where it is a new one."""
        entry = self._open.get(request.dedup_key)
        if entry is not None:
            entry.groups.append(group)
            group.unsettled += 1
            return None
        if request.dedup_key in self.failures:
            return None
        entry = self._open[request.dedup_key] = InFlight(request, group, next(self._orders))
        group.unsettled += 1
        return entry

    def queue(self, route: Route) -> RouteQueue:
        """The lane of this route."""
        queue = self.queues.get(route)
        if queue is None:
            queue = self.queues[route] = RouteQueue(route)
        return queue

    def waiting(self, position: int) -> list[RouteQueue]:
        """The lanes with work that the endpoint at this position may do, the oldest first."""
        mine = [queue for queue in self.queues.values() if position in queue.positions]
        if len(mine) > 1:
            mine = sorted((queue for queue in mine if queue.oldest is not None), key=_oldest)
        return mine

    def settle(self, entry: InFlight) -> None:
        """It has its outcome: whoever waits for nothing else is whole."""
        del self._open[entry.request.dedup_key]
        for group in entry.groups:
            group.unsettled -= 1
            if not group.unsettled:
                group.whole.set()


def _oldest(queue: RouteQueue) -> int:
    oldest = queue.oldest
    assert oldest is not None
    return oldest


def _packed(entries: Sequence[InFlight], endpoint: Endpoint, batch_size: int) -> list[InFlight]:
    """The first of these that fit one call, at least one."""
    packed = [entries[0]]
    tokens = packed[0].request.tokens
    for entry in itertools.islice(entries, 1, batch_size):
        tokens += entry.request.tokens
        if tokens > endpoint.batch_tokens:
            break
        packed.append(entry)
    return packed
