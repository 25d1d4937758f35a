"""Runs the mock outside the loop of its caller: in a thread of its own, or as a command."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from jobs.mock.faults import Fault
from jobs.mock.server import Mock
from pipeline.errors import UsageError

START_SECONDS = 30.0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextlib.contextmanager
def serving(script: Sequence[Fault | str] = (), **settings: Any) -> Iterator[Mock]:
    """A mock in a thread with its own loop, for blocking code under test.

    Takes the parameters of `Mock`. The bill may be read and the script replaced from any thread.

    Raises: UsageError if the address cannot be bound.
    """
    mock = Mock(script, **settings)
    ready = threading.Event()
    failed: list[BaseException] = []
    control: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        done = asyncio.Event()
        async with mock:
            control.append((asyncio.get_running_loop(), done))
            ready.set()
            await done.wait()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(run())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="mock", daemon=True)
    thread.start()
    ready.wait(START_SECONDS)
    if failed:
        thread.join()
        raise failed[0]
    try:
        yield mock
    finally:
        for loop, done in control:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(done.set)
        thread.join(START_SECONDS)
    if failed:
        raise failed[0]


def check_host(host: str, *, public: bool = False) -> str:
    """The host to listen on.

    Raises: UsageError for an address that other machines can reach, unless `public` is set: the
    mock has control routes without a key, and its bill repeats the requests.
    """
    if host == "localhost":
        return "127.0.0.1"
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback or public:
            return host
    if public and host:
        return host
    raise UsageError(
        f"mock: host `{host}` is not a loopback address", hint="--public serves other machines, too"
    )


def serve(
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    key: str | None = None,
    latency_seconds: float = 0.0,
    dimension: int = 384,
    batch_limit: int | None = None,
    max_input_tokens: int | None = None,
    engine: str = "tei",
    tasks: Sequence[str] = (),
    faults: Sequence[str] = (),
    limit: str | None = None,
    seed: int = 0,
    record: bool = False,
    public: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM: the address on stderr, at the end the bill on stdout.

    `tasks` are `owner/name=pipeline-tag`. `limit` is a line such as `bucket calls=50/s
    tokens=1e6/min headers=openai`, `window calls=500/5min headers=hub`, `slots=32`, `cold=20s
    outage=60s-90s`; `jobs.mock.limits.parse` defines its words. The bill then shows the traffic
    that passed it.

    Raises: UsageError for an invalid fault, limit, host, port or number.
    """
    if not 0 <= port <= 65_535:
        raise UsageError(f"mock: port = {port} must be from 0 to 65535")
    if not 0 <= latency_seconds <= 86_400:
        raise UsageError(f"mock: latency = {latency_seconds} must be from 0 to 86400 seconds")
    if engine not in ("tei", "tgi"):
        raise UsageError(f"mock: engine `{engine}` must be `tei` or `tgi`")
    named = dict(task.rpartition("=")[::2] for task in tasks)
    if "" in named or "" in named.values():
        raise UsageError("mock: `task` must be `owner/name=pipeline-tag`")
    mock = Mock(
        faults,
        host=check_host(host, public=public),
        port=port,
        key=key,
        latency=latency_seconds,
        dimension=dimension,
        batch_limit=batch_limit,
        max_input_tokens=max_input_tokens,
        engine="tgi" if engine == "tgi" else "tei",
        tasks=named,
        seed=seed,
        record=record,
        limit=limit,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve_until_signal(mock))
    sys.stdout.write(msgspec.json.encode(mock.document(full=record)).decode() + "\n")
    sys.stdout.flush()


async def _serve_until_signal(mock: Mock) -> None:
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, done.set)
    async with mock:
        sys.stderr.write(f"mock: {mock.url}\n")
        sys.stderr.flush()
        await done.wait()
