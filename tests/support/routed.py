"""Dispatch over several endpoints on a virtual clock: hours of hanging take no time."""

import anyio

from jobs.mock import clock
from pipeline.cache.keys import Keys
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import EndpointError, TextmillError
from pipeline.prepare.routes import Router
from pipeline.records import Answer, Answered, Chunk, Endpoint, Request

DEADLINE_SECONDS = 130.0


class Service:
    """Answers after `seconds`. A text is on its bill once it is answered, or while it hangs.

    `script(inputs, now)`: the error of a call, "hang" (no reply before the deadline), or None.
    """

    def __init__(self, name, seconds=0.1, script=None):
        self.name, self.seconds, self.script = name, seconds, script or (lambda inputs, now: None)
        self.calls, self.starts, self.answered, self.running, self.most = [], [], [], 0, 0

    async def __call__(self, requests):
        inputs, now = [each.input for each in requests], anyio.current_time()
        self.calls.append(inputs)
        self.starts.append(now)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            scripted = self.script(inputs, now)
            if scripted == "hang":
                await anyio.sleep(DEADLINE_SECONDS)
                raise EndpointError("ambiguous", "no complete answer within 130 s")
            await anyio.sleep(self.seconds)
            if isinstance(scripted, Exception):
                raise scripted
        finally:
            self.running -= 1
        self.answered += [(text, anyio.current_time()) for text in inputs]
        return Answered([Answer(f"{self.name}: {text}", 10, 5) for text in inputs])

    @property
    def texts(self):
        return [text for call in self.calls for text in call]


def endpoint(name, model=None, **changed):
    settings = {"concurrency": 4, "batch_size": 1, "identity": ("openai", "", model or name, "main")}
    return Endpoint(name=name, kind="openai", task="chat-completion", model=model or name,
                    **(settings | changed))


class Ended:
    """What is left of a run: the dispatch, the error, how long it took, the outcome of each row."""

    def __init__(self, dispatch, error, seconds, answers):
        self.dispatch, self.error, self.seconds, self.answers = dispatch, error, seconds, answers


def run(
    folder, served, rows, rules=(), *, admitted=None, seed=0, emit=lambda event: None, **options
):
    """Dispatch rows (text, fields) over these endpoints; `admitted`: rows in one group."""

    async def main():
        endpoints = [each for each, _ in served]
        keys, router = Keys(endpoints), Router(endpoints, rules)
        cache = AnswerCache(folder / "answers")
        dispatch = Dispatch(served, cache, emit, free_bytes=lambda: 1 << 40,
                            clock=anyio.current_time, **options)  # fmt: skip
        requests = []
        for text, fields in rows:
            route = router.route(fields)
            key = keys.first(route)(text)
            chunk = Chunk(0, len(text), 10)
            requests.append(Request(key, text, 10, chunk, route, router.name(route, key)))
        error, size = None, admitted or len(requests)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dispatch.run)
                groups = []
                for start in range(0, len(requests), size):
                    groups.append(Group())
                    await dispatch.admit(groups[-1], requests[start : start + size])
                for group in groups:
                    await group.whole.wait()
                seconds = anyio.current_time()
                dispatch.close()
        except* TextmillError as errors:
            error, seconds = errors.exceptions[0], anyio.current_time()
            while isinstance(error, BaseExceptionGroup):
                (error,) = error.exceptions
        answers = []
        for request in requests:
            found = cache.get_many([request.key, *keys.others(request)])
            outcome = dispatch.failures.get(request.dedup_key) or next(iter(found.values()), None)
            answers.append(outcome)
        cache.close()
        return Ended(dispatch, error, seconds, answers)

    return clock.run(main, seed=seed)
