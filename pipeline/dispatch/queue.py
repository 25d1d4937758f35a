"""The queues of requests by route, and the table of requests in flight with the groups that wait.

A queue holds the requests of one route. A request that fails for good in one tier moves to the
queue of the remaining tiers. Only keys are held here, never answers.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence

import anyio

from pipeline.cache.keys import Keys
from pipeline.records import Answer, Endpoint, Failure, Request, Route, Split


class Group:
    """Documents that are processed together; `whole` is set once all their requests are settled."""

    __slots__ = ("unsettled", "whole")

    def __init__(self) -> None:
        self.unsettled = 0
        self.whole = anyio.Event()


class InFlight:
    """A request in flight, the groups that wait for it, and the attempts that it used up."""

    __slots__ = (
        "attempts",
        "followers",
        "groups",
        "is_queued",
        "is_settled",
        "order",
        "outcome",
        "queue",
        "request",
        "sent_to",
        "twins",
    )

    def __init__(self, request: Request, group: Group, order: int, queue: RouteQueue) -> None:
        self.request = request
        self.groups = [group]
        self.order = order
        self.queue = queue
        """That of the remaining tiers of its route."""
        self.attempts = 0
        """In the current tier."""
        self.is_queued = False
        self.is_settled = False
        self.sent_to: int | None = None
        """The endpoint of the call that carries it now."""
        self.outcome: Answer | Split | None = None
        """What the call of a twin brought while this one was in a call itself."""
        self.twins: list[InFlight] = []
        """The requests in flight with its text, itself included: one for each route."""
        self.followers: list[InFlight] = []
        """Twins that wait for its call, because their answer would have the same key."""


class SplitBatch:
    """A call split in two after "too large". If both halves succeed, their size becomes the batch
    limit."""

    __slots__ = ("answered", "position", "size")

    def __init__(self, position: int, size: int) -> None:
        self.position = position
        """The endpoint that rejected it; another one may answer the halves."""
        self.size = size
        """Size of the larger half."""
        self.answered = 0


class PendingCall:
    """A call to be sent, or sent again with the same requests and no others."""

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
        """What it takes from the retry budget."""
        self.split_batch = split_batch
        self.order = entries[0].order

    def __lt__(self, other: PendingCall) -> bool:
        return (self.ready, self.order) < (other.ready, other.order)


class RouteQueue:
    """The queued requests of one route: new ones, and calls to retry."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.positions = frozenset(route.positions)
        self.in_flight = 0
        """Requests of calls that have not returned."""
        self._new: deque[InFlight] = deque()
        self._retries: list[PendingCall] = []

    def __repr__(self) -> str:
        tiers = " then ".join(", ".join(map(str, tier)) for tier in self.route.tiers)
        retries = sum(len(call.entries) for call in self._retries)
        counts = f"{len(self._new)} new, {retries} to retry, {self.in_flight} in flight"
        return f"<RouteQueue of endpoints {tiers}: {counts}>"

    def add(self, entry: InFlight) -> None:
        """Queue a request that was not sent yet."""
        self._new.append(entry)

    def retry(self, call: PendingCall) -> None:
        """Queue a call to be sent again when it is ready."""
        heapq.heappush(self._retries, call)

    def next(self, now: float, endpoint: Endpoint, batch_size: int) -> PendingCall | None:
        """The next call for this endpoint, still queued; None: there is none now.

        Retries go before new work, the oldest request first. The queue does not change: another
        endpoint may take the call.
        """
        if self._retries and self._retries[0].ready <= now:
            oldest = self._retries[0]
            packed = _packed(oldest.entries, endpoint, batch_size)
            if len(packed) == len(oldest.entries):
                return oldest
            # It was packed for an endpoint with a larger batch, or before the limit was learned.
            return PendingCall(oldest.ready, packed, oldest.cost)
        if not self._new:
            return None
        return PendingCall(now, _packed(self._new, endpoint, batch_size), 0.0)

    def mark_sent(self, call: PendingCall) -> None:
        """Remove the call that `next` returned: it was sent."""
        size = len(call.entries)
        self.in_flight += size
        if self._retries and self._retries[0].entries[0] is call.entries[0]:
            retry = heapq.heappop(self._retries)
            if unsent := retry.entries[size:]:
                self.retry(PendingCall(retry.ready, unsent, retry.cost))
        else:
            for _ in call.entries:
                self._new.popleft()

    def discard(self, entry: InFlight) -> None:
        """Remove this request, if it waits here."""
        if entry in self._new:
            self._new.remove(entry)
            return
        for call in self._retries:
            if entry in call.entries:
                call.entries.remove(entry)
        if not all(call.entries for call in self._retries):
            self._retries = [call for call in self._retries if call.entries]
            heapq.heapify(self._retries)

    def ready_in(self, now: float) -> float:
        """Seconds until the next retry; infinity: there is none."""
        return max(0.0, self._retries[0].ready - now) if self._retries else float("inf")

    @property
    def oldest(self) -> int | None:
        """The order of the oldest request; None: the queue is empty."""
        heads = [self._new[0].order] if self._new else []
        heads += [self._retries[0].order] if self._retries else []
        return min(heads, default=None)


class InFlightTable:
    """The requests in flight by `dedup_key`, and the queues in which they wait.

    Invariant: no two calls in flight carry one key. Rows with equal texts and different routes are
    twins: requests of their own that may have the same key under the endpoints that answer them.
    """

    def __init__(self, failures: dict[bytes, Failure], keys: Keys) -> None:
        self.failures = failures
        """Final failures of this run, by `dedup_key`: a later equal request is not sent again."""
        self.splits: set[bytes] = set()
        """Keys of requests that are too long for the model: admit their pieces instead."""
        self.queues: dict[Route, RouteQueue] = {}
        self._keys = keys
        self.checks: list[RouteQueue] = []
        """Queues of checks that a caller waits for: it sends their calls itself."""
        self._open: dict[bytes, InFlight] = {}
        self._twins: dict[bytes, list[InFlight]] = {}
        """By the key of the text under the first endpoint of the job."""
        self._orders = itertools.count()

    def __len__(self) -> int:
        return len(self._open)

    def join(self, group: Group, request: Request) -> InFlight | None:
        """Let the group wait for this request; returns its entry if it is new."""
        entry = self._open.get(request.dedup_key)
        if entry is not None:
            entry.groups.append(group)
            group.unsettled += 1
            return None
        if request.dedup_key in self.failures:
            return None
        entry = InFlight(request, group, next(self._orders), self.queue(request.route))
        self._open[request.dedup_key] = entry
        group.unsettled += 1
        if self._keys.endpoints > 1:
            entry.twins = self._twins.setdefault(self._keys.under(0, request), [])
            entry.twins.append(entry)
        return entry

    def follow(self, entries: Sequence[InFlight], position: int) -> bool:
        """Let those of a call to this endpoint wait whose key is on its way for a row with another
        route; True if there is one. They leave their queue until that call returns."""
        leaders: dict[bytes, InFlight] = {}
        has_followers = False
        for entry in list(entries):
            if len(entry.twins) < 2:
                continue
            key = self._keys.under(position, entry.request)
            leader = leaders.setdefault(key, entry)
            for twin in entry.twins:
                sent_to = twin.sent_to
                if sent_to is not None and self._keys.under(sent_to, twin.request) == key:
                    leader = twin
            if leader is not entry:
                entry.queue.discard(entry)
                leader.followers.append(entry)
                has_followers = True
        return has_followers

    def returned(self, entries: Sequence[InFlight]) -> None:
        """Record that these are settled or will be sent again; what followed them is queued."""
        for entry in entries:
            entry.sent_to = None
            followers, entry.followers = entry.followers, []
            for follower in followers:
                if not follower.is_settled:
                    follower.queue.retry(PendingCall(0.0, [follower], 0.0))

    def settled_with(self, entry: InFlight, key: bytes) -> list[InFlight]:
        """The twins of a request that an outcome with this key settles, too."""
        return [
            twin
            for twin in entry.twins
            if twin is not entry and key in (twin.request.key, *self._keys.others(twin.request))
        ]

    def queue(self, route: Route) -> RouteQueue:
        """The queue of this route."""
        queue = self.queues.get(route)
        if queue is None:
            queue = self.queues[route] = RouteQueue(route)
        return queue

    def waiting(self, position: int) -> list[RouteQueue]:
        """The queues that the endpoint at this position may serve, the oldest head first."""
        queues = [queue for queue in self.queues.values() if position in queue.positions]
        if len(queues) > 1:
            queues = sorted((queue for queue in queues if queue.oldest is not None), key=_oldest)
        return queues

    def settle(self, entry: InFlight) -> None:
        """Remove a settled request; groups that wait for nothing else are whole."""
        del self._open[entry.request.dedup_key]
        entry.is_settled = True
        if entry.twins:
            self.returned([entry])
            entry.twins.remove(entry)
            if not entry.twins:
                del self._twins[self._keys.under(0, entry.request)]
        for group in entry.groups:
            group.unsettled -= 1
            if not group.unsettled:
                group.whole.set()


def _oldest(queue: RouteQueue) -> int:
    oldest = queue.oldest
    assert oldest is not None
    return oldest


def _packed(entries: Sequence[InFlight], endpoint: Endpoint, batch_size: int) -> list[InFlight]:
    """The first entries that fit into one call, at least one."""
    packed = [entries[0]]
    tokens = packed[0].request.tokens
    for entry in itertools.islice(entries, 1, batch_size):
        tokens += entry.request.tokens
        if tokens > endpoint.batch_tokens:
            break
        packed.append(entry)
    return packed
