"""A whole dispatch against a simulated server on the virtual clock, and what the server saw."""

import random
from typing import NamedTuple

import anyio

from jobs.mock import SimulatedServer, clock
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import TextmillError
from pipeline.records import Chunk, Endpoint, Request


class Memory:
    """Answers in a dict: nothing is measured but the dispatch."""

    folder = "memory"

    def __init__(self):
        self.answers = {}

    def get_many(self, keys):
        return {key: self.answers[key] for key in keys if key in self.answers}

    def put_many(self, answers, is_usable):
        self.answers.update(answers)
        return {}


class Seen(NamedTuple):
    """What a server saw until `seconds`; calls and answers by whole seconds since the start."""

    server: SimulatedServer
    seconds: float
    calls: list
    loads: list
    """Calls in flight, 50 times a second."""
    error: Exception | None

    def answers(self, begin, end):
        """Answers a second, between two seconds since the first call."""
        admitted = self.server.gate.traffic.by_second
        return sum(admitted[at] for at in range(begin, end)) / (end - begin)

    def mean_load(self, begin=0.5, end=0.95):
        """Calls in flight between two parts of the time."""
        part = self.loads[int(begin * len(self.loads)) : int(end * len(self.loads))]
        return sum(part) / len(part)


def endpoint(**changed):
    given = {"name": "mock", "kind": "openai", "task": "feature-extraction", "model": "m"}
    return Endpoint(**given | {"identity": ("openai", "", "m", ""), "batch_size": 1} | changed)


def request(number, tokens=10):
    return Request(number.to_bytes(32, "big"), f"text {number}", tokens, Chunk(0, 9, tokens))


def simulated(limit, *, count, seconds=1e6, seed=0, script=(), **changed):
    """Until `count` requests are settled, at most for `seconds`."""

    async def main():
        server = SimulatedServer(limit, dimension=4, seed=seed, script=script)
        calls, loads = [], []

        async def send(requests):
            calls.append(anyio.current_time())
            return await server.send(requests)

        dispatch = Dispatch(
            [(endpoint(**changed), send)],
            Memory(),
            lambda event: None,
            free_bytes=lambda: 1 << 40,
            clock=anyio.current_time,
            uniform=random.Random(seed).random,
        )

        async def watch():
            while True:
                loads.append(server.in_flight)
                await anyio.sleep(0.02)

        error = None
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(dispatch.run)
                    group = Group()
                    await dispatch.admit(group, [request(n) for n in range(count)])
                    dispatch.close()
                    with anyio.move_on_after(seconds) as scope:
                        await group.whole.wait()
                    if scope.cancelled_caught:
                        dispatch.stop(TextmillError("time is up"), 0.0)
            except* TextmillError as raised:
                error = raised.exceptions[0]
            watching.cancel_scope.cancel()
        return Seen(server, anyio.current_time(), calls, loads, error)

    return clock.run(main, seed=seed)
