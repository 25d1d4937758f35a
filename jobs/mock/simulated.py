"""A server without sockets: the mock's gate, refusals and latency, on the running loop's clock.

On a virtual clock (`jobs.mock.clock`) hours of traffic take seconds, so that a controller is
measured over whole minutes, halved limits and outages in every test run. Replies are the mock's
own, read by the same code that reads them off a wire.

    async def main() -> Figures:
        server = Simulated("bucket calls=50/s latency=200ms sigma=0.5")
        dispatch = Dispatch([(endpoint, server.send)], ..., clock=anyio.current_time)
        ...
        return server.gate.figures()

    clock.run(main)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache

import anyio
import numpy as np

from jobs.mock.faults import ADDED, UNCHARGED, Fault, Script
from jobs.mock.limits import limits
from jobs.mock.limits import parse as words
from jobs.mock.limits.gate import Gate, GateResult
from jobs.mock.limits.limits import Limit
from jobs.mock.plan import instead
from jobs.mock.protocols import texts, vectors
from jobs.mock.protocols.calls import Reply, Service
from pipeline.endpoints.responses import refusal
from pipeline.errors import EndpointError, UsageError
from pipeline.records import Answer, Answered, Request

# 1 January 2026: what dates say when the virtual clock shows 0.
EPOCH = 1_767_225_600.0
REFUSAL_SECONDS = 0.01


class SimulatedServer:
    """Answers requests as a service behind this limit would; `gate` counts what passed.

    It is made inside the loop by whose clock it goes. Faults are those of the mock that end a call
    before inference (`500 30%`, `422 match=poison`, `hang`, ...), `delay` and `headers`; all others
    break bytes, and here are none.

    Raises: UsageError for a limit or fault that cannot be taken.
    Units: `refusal_seconds` is how long a refusal takes to arrive; with 0, a client that tries
    again at once would do so for ever in the same instant.
    """

    def __init__(
        self,
        limit: Limit | str,
        *,
        script: Sequence[Fault | str] = (),
        service: Service = "openai",
        dimension: int | None = None,
        seed: int = 0,
        refusal_seconds: float = REFUSAL_SECONDS,
    ) -> None:
        self.limit = words.parse(limit) if isinstance(limit, str) else limit
        self.gate = Gate(self.limit, clock=anyio.current_time, wall=self._wall)
        self.script = Script(script, seed=seed)
        for fault in self.script.faults:
            if fault.kind not in UNCHARGED | ADDED:
                raise UsageError(f"simulated: fault `{fault.kind}` breaks bytes: use the mock")
        self.answered: Counter[str] = Counter()
        """Inputs, each as often as it was answered."""
        self.calls = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._service = service
        self._dimension = dimension
        self._random = random.Random(seed)
        self._latency = limits.latency(self.limit)
        self._refusal_seconds = refusal_seconds

    async def send(self, requests: Sequence[Request]) -> Answered:
        """An answer to each request, a vector where a dimension was given, else a text; and the
        headers of the reply, their names in lower case.

        Raises: EndpointError, as the client's own reading of the refusal has it.
        """
        reply = await self.reply(
            [one.input for one in requests], sum(one.tokens for one in requests)
        )
        headers = {name.lower(): value for name, value in reply.headers}
        if reply.status != 200:
            refused = refusal(reply.status, headers, reply.body)
            refused.headers = headers
            raise refused
        return Answered([self._answer(one) for one in requests], headers)

    async def reply(self, inputs: Sequence[str], tokens: float) -> Reply:
        """The reply to a call, without a body where it is well.

        Raises: EndpointError where the connection is reset.
        """
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            passage = self.gate.enter(self._service, "mock", tokens, len(inputs))
            if passage.refused is None:
                return await self._inside(passage, inputs)
            await anyio.sleep(self._refusal_seconds)
            if passage.reset:
                raise EndpointError("ambiguous", "the connection was reset")
            return self._told(passage.refused)
        finally:
            self.in_flight -= 1

    async def _inside(self, passage: GateResult, inputs: Sequence[str]) -> Reply:
        """What becomes of a call that was let in."""
        extra = passage.headers
        try:
            body = "\0".join(inputs).encode("utf-8", "surrogatepass")
            for fault in self.script.play("/", inputs, body, vectors=self._dimension is not None):
                extra += tuple(fault.headers.items())
                if fault.kind == "delay":
                    await anyio.sleep(fault.seconds or 0.0)
                elif fault.kind == "hang":
                    await anyio.sleep_forever()
                elif fault.kind == "reset":
                    await anyio.sleep(self._refusal_seconds)
                    raise EndpointError("ambiguous", "the connection was reset")
                elif fault.kind != "headers":
                    await anyio.sleep(self._refusal_seconds)
                    reply = instead(fault, self._service, "mock")
                    return self._told(
                        Reply(reply.status, reply.body, headers=(*reply.headers, *extra))
                    )
            await anyio.sleep(self._latency(self._random))
            self.answered.update(inputs)
            return self._told(Reply(200, headers=extra))
        finally:
            self.gate.leave(passage)

    def _told(self, reply: Reply) -> Reply:
        """The reply with its date."""
        headers = (("date", _date(int(self._wall()))), *reply.headers)
        return Reply(reply.status, reply.body, reply.content_type, headers)

    def _answer(self, request: Request) -> Answer:
        if self._dimension is None:
            said = texts.extract(request.input)
            return Answer(said, request.tokens, texts.count(said), model="mock")
        digest = vectors.digest(request.input.encode("utf-8", "surrogatepass"))
        numbers = vectors.vector(digest, "mock", self._dimension)
        return Answer(numbers.astype(np.dtype("<f4")).tobytes(), request.tokens, model="mock")

    def _wall(self) -> float:
        return EPOCH + anyio.current_time()


@lru_cache(maxsize=1)
def _date(wall: int) -> str:
    return formatdate(wall, usegmt=True)
