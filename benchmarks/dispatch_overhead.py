"""What does the way through textmill cost beside a plain loop over aiohttp?

Calls a second and CPU seconds per 1,000 calls on loopback, short texts against the mock in a
process of its own (384 dimensions), each peer in a process of its own. The clocks of a peer start
with its first call; those of `textmill run` with the process, so that reading, cutting, survey and
Parquet are in them, and some 0.7 s of start. `of raw` is calls/s against the raw loop of the same
case. The two `alone` store the answers of that case without any call: the cache in groups of 256 at
most, and diskcache's own `set` in the same transactions; `of cache alone` is calls/s against them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from measure import machine, peer, report

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
PEERS = (
    "raw aiohttp",
    "httpx",
    "openai",
    "huggingface_hub",
    "textmill, cache off",
    "diskcache alone",
    "cache alone",
    "textmill, cache on",
    "textmill run",
)
SKIPPED = 3

Ask = Callable[[list[str]], Awaitable[Any]]


def text(number: int) -> str:
    return f"Row {number}: the gauge at weir {number % 97} read {number * 7 % 1000} mm."


# --- one peer, in its own process ----------------------------------------------------------------


class Vector(msgspec.Struct):
    embedding: str


class Body(msgspec.Struct):
    data: list[Vector]


def _now() -> complex:
    """Wall seconds, and as the imaginary part CPU seconds of all threads."""
    return complex(time.perf_counter(), time.process_time())


async def _loop(ask: Ask, calls: int, size: int, concurrency: int) -> None:
    """Workers over a list of calls: the loop that most projects write."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await ask([text(number * size + each) for each in range(size)])

    await asyncio.gather(*(work() for _ in range(concurrency)))


async def _raw(url: str, calls: int, size: int, concurrency: int) -> complex:
    import aiohttp
    import numpy as np

    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Body).decode
    headers = {"content-type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(inputs: list[str]) -> Any:
            body = encode({"input": inputs, "model": "m", "encoding_format": "base64"})
            async with session.post(f"{url}/v1/embeddings", data=body, headers=headers) as reply:
                rows = decode(await reply.read()).data
            return [np.frombuffer(base64.b64decode(one.embedding), "<f4") for one in rows]

        started = _now()
        await _loop(ask, calls, size, concurrency)
        return _now() - started


async def _httpx(url: str, calls: int, size: int, concurrency: int) -> complex:
    httpx = _module("httpx", "httpx2")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=60) as client:

        async def ask(inputs: list[str]) -> Any:
            body = {"input": inputs, "model": "m", "encoding_format": "base64"}
            document = (await client.post(f"{url}/v1/embeddings", json=body)).json()
            return [base64.b64decode(one["embedding"]) for one in document["data"]]

        started = _now()
        await _loop(ask, calls, size, concurrency)
        return _now() - started


async def _openai(url: str, calls: int, size: int, concurrency: int) -> complex:
    async with _module("openai").AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client:

        async def ask(inputs: list[str]) -> Any:
            return await client.embeddings.create(model="m", input=inputs)

        started = _now()
        await _loop(ask, calls, size, concurrency)
        return _now() - started


async def _huggingface(url: str, calls: int, size: int, concurrency: int) -> complex:
    async with _module("huggingface_hub").AsyncInferenceClient(model=f"{url}/embed") as client:

        async def ask(inputs: list[str]) -> Any:
            return await client.feature_extraction(inputs if size > 1 else inputs[0])

        started = _now()
        await _loop(ask, calls, size, concurrency)
        return _now() - started


async def _textmill(url: str, calls: int, size: int, concurrency: int, is_kept: bool) -> complex:
    import anyio
    from saturation import Memory

    from pipeline.cache.store import AnswerCache
    from pipeline.dispatch.dispatch import Dispatch
    from pipeline.dispatch.queue import Group
    from pipeline.endpoints.http import HttpEndpoint
    from pipeline.records import Chunk, Endpoint, Request

    endpoint = Endpoint(
        name="mock",
        kind="openai",
        task="feature-extraction",
        model="m",
        identity=("openai", "", "m", ""),
        url=f"{url}/v1",
        concurrency=concurrency,
        batch_size=size,
    )
    with tempfile.TemporaryDirectory() as folder:
        cache: Any = AnswerCache(Path(folder, "answers")) if is_kept else Memory()
        async with HttpEndpoint(endpoint) as client:
            dispatch = Dispatch(
                [(endpoint, client.answer)], cache, lambda _: None, free_bytes=lambda: 1 << 40
            )
            started = _now()
            async with anyio.create_task_group() as group:
                group.start_soon(dispatch.run)
                # As many open at once as a run has: 4,096 requests or four full pipes.
                at_once, opened = max(1_024, concurrency * size), []
                for first in range(0, calls * size, at_once):
                    requests = [
                        Request(n.to_bytes(32, "big"), text(n), 20, Chunk(0, 50, 20))
                        for n in range(first, min(first + at_once, calls * size))
                    ]
                    opened.append(Group())
                    await dispatch.admit(opened[-1], requests)
                    if len(opened) >= 4:
                        await opened[-4].whole.wait()
                for each in opened:
                    await each.whole.wait()
                dispatch.close()
            took = _now() - started
        assert not dispatch.failures
        if is_kept:
            cache.close()
    return took


async def _alone(calls: int, size: int, is_plain: bool) -> complex:
    """Only the sets: ours, or diskcache's own of the same sealed values."""
    from pipeline.cache.entry import encode_entry
    from pipeline.cache.store import AnswerCache
    from pipeline.records import Answer

    vector = os.urandom(384 * 4)
    answers = [(n.to_bytes(32, "big"), Answer(vector, 20)) for n in range(calls * size)]
    group = min(256, 64 * size)
    with tempfile.TemporaryDirectory() as folder:
        cache = AnswerCache(Path(folder, "answers"))
        store = cache._store
        started = _now()
        for first in range(0, len(answers), group):
            some = answers[first : first + group]
            if not is_plain:
                cache.put_many(some)
                continue
            with store.transact():
                for key, answer in some:
                    store.set(key, encode_entry(key, answer))
        took = _now() - started
        cache.close()
    return took


def _module(*names: str) -> Any:
    """The first installed one; else this peer ends, and the table shows it as skipped."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    print(json.dumps({"skipped": f"{names[0]} is not installed"}))
    raise SystemExit(SKIPPED)


def run_peer(name: str, url: str, calls: int, size: int, concurrency: int) -> None:
    """In a process of its own; prints what it took."""
    given = (url, calls, size, concurrency)
    works: dict[str, Callable[[], Any]] = {
        "raw aiohttp": lambda: _raw(*given),
        "httpx": lambda: _httpx(*given),
        "openai": lambda: _openai(*given),
        "huggingface_hub": lambda: _huggingface(*given),
        "textmill, cache off": lambda: _textmill(*given, is_kept=False),
        "diskcache alone": lambda: _alone(calls, size, is_plain=True),
        "cache alone": lambda: _alone(calls, size, is_plain=False),
        "textmill, cache on": lambda: _textmill(*given, is_kept=True),
    }
    took = asyncio.run(works[name]())
    print(json.dumps({"seconds": took.real, "cpu": took.imag}))


# --- all of them ---------------------------------------------------------------------------------


@contextmanager
def mock(latency: float) -> Iterator[str]:
    """The address of a mock of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "jobs", "mock", "--port", "0", "--latency", str(latency)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert server.stderr is not None
        yield server.stderr.readline().split()[-1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def whole_run(url: str, calls: int, size: int, concurrency: int) -> dict[str, float]:
    """`textmill run` over a file of short rows: everything on."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.jsonl")
        with rows.open("w") as file:
            for number in range(calls * size):
                file.write(json.dumps({"id": number, "text": text(number)}) + "\n")
        command = [sys.executable, "-m", "jobs", "run", "embed", "-i", str(rows), "--json"]
        command += ["--id", "id", "-o", f"{folder}/out.parquet", "--overlap", "0"]
        command += ["--kind", "openai", "--url", f"{url}/v1", "--model", "m"]
        command += ["--concurrency", str(concurrency), "--batch-size", str(size)]
        measured = peer(command, {"PYTHONPATH": str(ROOT), "TEXTMILL_HOME": f"{folder}/home"})
    return {"seconds": measured["wall_seconds"], "cpu": measured["cpu_seconds"]}


def case(
    names: Sequence[str], calls: int, size: int, concurrency: int, latency: float
) -> Iterator[dict[str, Any]]:
    """One row per peer; the server is new for each."""
    raw = alone = 0.0
    for name in names:
        row: dict[str, Any] = {
            "peer": name,
            "in flight": concurrency,
            "batch": size,
            "latency ms": round(latency * 1000),
        }
        with mock(latency) as url:
            if name == "textmill run":
                measured: dict[str, Any] = whole_run(url, calls, size, concurrency)
            else:
                numbers = [str(each) for each in (calls, size, concurrency)]
                command = [sys.executable, __file__, "--peer", name, url, *numbers]
                measured = json.loads(peer(command)["out"])
        if "skipped" in measured:
            yield row | {"calls/s": measured["skipped"]}
            continue
        rate = calls / measured["seconds"]
        raw = raw or rate
        alone = rate if name == "cache alone" else alone
        row["calls/s"] = round(rate)
        row["CPU s per 1,000"] = round(measured["cpu"] * 1000 / calls, 2)
        if not name.endswith("alone"):
            row["of raw"] = round(rate / raw, 2)
        if alone and name.startswith("textmill"):
            row["of cache alone"] = round(rate / alone, 2)
        yield row


def main() -> None:
    if sys.argv[1:2] == ["--peer"]:
        _, _, name, url, calls, size, concurrency = sys.argv
        run_peer(name, url, int(calls), int(size), int(concurrency))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="only 64 in flight, few calls")
    parser.add_argument("--calls", type=int, help="single inputs; batches: a quarter of it")
    options = parser.parse_args()
    calls = options.calls or (1_500 if options.quick else 10_000)
    rows: list[dict[str, Any]] = []
    for concurrency in (64,) if options.quick else (16, 64, 256):
        rows += case(PEERS, calls, 1, concurrency, 0.0)
        rows += case(PEERS, calls // 4, 32, concurrency, 0.0)
    if not options.quick:
        names = ("raw aiohttp", "textmill, cache off", "textmill, cache on", "textmill run")
        rows += case(names, calls, 1, 256, 0.05)
    names = ("textmill", "aiohttp", "httpx", "httpx2", "openai", "huggingface_hub")
    report(rows, machine(*names), as_json=options.json)


if __name__ == "__main__":
    main()
