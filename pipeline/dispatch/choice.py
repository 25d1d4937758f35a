"""Which endpoint of a route makes the next call, from the current state of all of them.

Pauses, silence and room are read from the endpoints; `policy` compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.policy import Lending, takes, weighted_turn
from pipeline.records import Request, Route

MAX_DEBT_CALLS = 4
"""An endpoint that lent its share is owed this number of full calls at most: else it would get all
calls for as long as it was away."""

AWAKE_SECONDS = 0.05
"""An endpoint that polled less than this time ago is not woken for a choice."""


class Choice:
    """Chooses the endpoint of each call. Only the loop thread uses it."""

    def __init__(self, states: Sequence[EndpointState], policy: str) -> None:
        self._states = states
        self._policy = policy
        self._lending: dict[tuple[int, ...], Lending] = {}

    def is_chosen(
        self, state: EndpointState, route: Route, requests: Sequence[Request], now: float
    ) -> bool:
        """True if this endpoint makes the call, and not another one of the route."""
        if len(route.tiers) == 1 == len(route.tiers[0]):
            return True
        for tier in route.tiers:
            candidates = [self._states[position] for position in tier]
            active = [each for each in candidates if not each.admission.is_paused(now)]
            if state.position in tier:
                if state not in active:
                    return True  # it waits for the end of its pause, and then sends a probe
                heard = [each for each in active if not each.is_silent(now, candidates)] or active
                return state in heard and self._takes(state, tier, heard, requests, now)
            if active:
                return False
        return False

    def wake_in(
        self, state: EndpointState, route: Route, requests: Sequence[Request], now: float
    ) -> float:
        """Seconds until another endpoint that is chosen, but asleep, should be woken; infinity:
        there is none. Choices change with time, and it may sleep since it was not chosen.

        Only for the chosen one, and not again at once: two that are not chosen would wake each
        other for ever.
        """
        if not state.admission.has_room:
            return math.inf
        asleep = (
            each.polled_at + AWAKE_SECONDS - now
            for each in (self._states[position] for position in route.positions)
            if each is not state
            and each.is_asleep
            and each.admission.has_room
            and not each.admission.is_paused(now)
            and self.is_chosen(each, route, requests, now)
        )
        return max(0.0, min(asleep, default=math.inf))

    def count(self, state: EndpointState, requests: int, now: float) -> None:
        """Count a call with this number of requests towards the share of its endpoint."""
        state.meter.share += requests / state.endpoint.weight
        for each in self._states:
            debt = MAX_DEBT_CALLS * each.batch_size / each.endpoint.weight
            if each.admission.is_paused(now):
                debt = 0.0
            each.meter.share = max(each.meter.share, state.meter.share - debt)

    def _takes(
        self,
        state: EndpointState,
        tier: tuple[int, ...],
        rivals: Sequence[EndpointState],
        requests: Sequence[Request],
        now: float,
    ) -> bool:
        """True if the policy chooses this endpoint among these of its tier."""
        views = [each.view(now, requests) for each in rivals]
        if self._policy != "weighted":
            return takes(self._policy, views, state.position)
        turn = weighted_turn(views, state.position)
        (own,) = (view for view in views if view.position == state.position)
        if not own.is_able:
            return turn == "takes"
        lending = self._lending.get(tier, Lending(now)).observed(now, turn == "held")
        self._lending[tier] = lending
        return turn == "takes" or (turn == "held" and lending.lends)
