"""The limits' promises: a controller is judged by what these servers let through."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mock import Limit, Mock, SimulatedServer, clock, serve
from jobs.mock.limits.figures import Traffic
from jobs.mock.limits.gate import Gate
from jobs.mock.limits.headers import go_duration, headers
from jobs.mock.limits.limits import Verdict, admit, advance, latency, leave, remaining, start
from jobs.mock.limits.parse import TABLE, parse
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import EndpointError, UsageError
from pipeline.records import Chunk, Endpoint, Request

WALL = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT

GAPS = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 5)), max_size=80)
TOKENS = st.integers(0, 1200)
TRAFFIC = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0, 5)), TOKENS), max_size=80
)
EXTRAS = st.sampled_from(["", " rejects=count", " tenant=0.5", " rejects=count tenant=0.9@1s-3s"])


def played(limit: Limit, traffic: list[tuple[float, int]]) -> list[tuple[float, int, Verdict]]:
    """Time, tokens and verdict of each call."""
    state, now, results = start(1000.0), 1000.0, []
    for gap, tokens in traffic:
        now += gap
        state, verdict = admit(limit, state, now, tokens=tokens)
        if verdict.word == "admitted":
            state = leave(state)
        results.append((now, tokens, verdict))
    return results


def admitted_calls(results: list[tuple[float, int, Verdict]]) -> list[tuple[float, int]]:
    return [(at, tokens) for at, tokens, verdict in results if verdict.word == "admitted"]


def stretches(passed: list[tuple[float, int]]) -> list[tuple[float, int, int]]:
    """Seconds, calls and tokens from every admitted call to every later one."""
    return [
        (passed[j][0] - passed[i][0], j - i + 1, sum(tokens for _, tokens in passed[i : j + 1]))
        for i in range(len(passed))
        for j in range(i, len(passed))
    ]


# Laws


@settings(deadline=None, max_examples=60)
@given(TRAFFIC, EXTRAS)
def test_a_bucket_never_admits_more_than_its_depth_and_what_flows_in(
    traffic: list[tuple[float, int]], extra: str
) -> None:
    limit = parse("bucket calls=5/s tokens=1000/s" + extra)
    for seconds, calls, tokens in stretches(admitted_calls(played(limit, traffic))):
        assert calls <= 5 + 5 * seconds + 1e-4
        assert tokens <= 1000 + 1000 * seconds + 1e-2


@settings(deadline=None, max_examples=60)
@given(TRAFFIC, EXTRAS)
def test_a_window_never_admits_more_than_its_amount_in_each_window(
    traffic: list[tuple[float, int]], extra: str
) -> None:
    limit = parse("window calls=5/2s tokens=1000/2s" + extra)
    windows: dict[int, list[int]] = {}
    passed = played(limit, traffic)
    for at, tokens in admitted_calls(passed):
        number = math.floor((at - passed[0][0] + 1e-9) / 2)
        windows.setdefault(number, []).append(tokens)
    assert all(len(one) <= 5 and sum(one) <= 1000 for one in windows.values())


@settings(deadline=None, max_examples=60)
@given(TRAFFIC, EXTRAS)
def test_a_sliding_window_never_admits_more_in_any_stretch_of_its_length(
    traffic: list[tuple[float, int]], extra: str
) -> None:
    limit = parse("sliding calls=5/2s tokens=1000/2s" + extra)
    for seconds, calls, tokens in stretches(admitted_calls(played(limit, traffic))):
        assert seconds > 2 - 1e-6 or (calls <= 5 and tokens <= 1000)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["bucket", "window", "sliding"]),
    TRAFFIC,
    st.sampled_from(["", " rejects=count", " change=1s:0.5,4s:2"]),
)
def test_a_client_that_waits_the_reported_time_is_admitted_and_no_time_is_too_long(
    counts: str, traffic: list[tuple[float, int]], extra: str
) -> None:
    limit = parse(f"{counts} calls=5/s tokens=1000/s{extra}")
    state, now = start(0.0), 0.0
    for gap, tokens in traffic:
        now += gap
        state, verdict = admit(limit, state, now, tokens=tokens)
        if verdict.word == "admitted":
            state = leave(state)
        elif verdict.word == "rate" and not limit.changes:
            again = admit(limit, state, now + verdict.wait, tokens=tokens)[1]
            sooner = admit(limit, state, now + 0.99 * verdict.wait - 1e-4, tokens=tokens)[1]
            assert (again.word, sooner.word) == ("admitted", "rate")
        else:
            assert verdict.word in ("rate", "too_large")


@settings(deadline=None, max_examples=60)
@given(GAPS, st.lists(st.integers(1, 12), min_size=1, max_size=80), st.integers(1, 30))
def test_never_more_slots_and_permits_are_taken_than_there_are(
    gaps: list[float], inputs: list[int], held: int
) -> None:
    limit = parse("slots=4 permits=20")
    state, now, under_way = start(0.0), 0.0, []
    for n, gap in enumerate(gaps):
        now += gap
        many = inputs[n % len(inputs)]
        free = len(under_way) < 4 and sum(under_way) + many <= 20
        state, verdict = admit(limit, state, now, inputs=many)
        assert verdict.word == ("admitted" if free else "slots")
        if free:
            under_way.append(many)
        if under_way and n % held == 0:
            state = leave(state, inputs=under_way.pop(0))
        assert (state.in_flight, state.inputs_in_flight) == (len(under_way), sum(under_way))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(list(TABLE.values())), TRAFFIC)
def test_a_decision_depends_on_its_arguments_alone(
    words: str, traffic: list[tuple[float, int]]
) -> None:
    limit = parse(words)
    assert played(limit, traffic) == played(limit, traffic)
    state = start(5.0)
    first = admit(limit, state, 6.0)
    admit(limit, state, 6.0, tokens=3)
    assert admit(limit, state, 6.0) == first and state == start(5.0)


@settings(deadline=None, max_examples=50)
@given(TRAFFIC, st.floats(0.1, 10))
def test_the_peak_is_the_maximum_over_all_intervals(
    traffic: list[tuple[float, int]], seconds: float
) -> None:
    counter, now, passed = Traffic(parse("slots=1"), (seconds,)), 0.0, []
    for gap, tokens in traffic:
        now += gap
        passed.append((now, tokens))
        counter.count(now, tokens, Verdict("admitted"))
    inside = [one for one in stretches(passed) if one[0] < seconds - 1e-9]
    assert counter.peak(seconds) == (
        max((calls for _, calls, _ in inside), default=0),
        max((tokens for _, _, tokens in inside), default=0),
    )


# Examples


def verdicts(words: str, moments: list[float], tokens: int = 0) -> list[str]:
    limit, state, verdict_words = parse(words), start(0.0), []
    for at in moments:
        state, verdict = admit(limit, state, at, tokens=tokens)
        verdict_words.append(verdict.word)
        if verdict.word == "admitted":
            state = leave(state)
    return verdict_words


def count(words: str, moments: list[float], **more: int) -> int:
    return verdicts(words, moments, **more).count("admitted")


def test_a_bucket_of_a_minute_takes_a_minute_s_worth_at_once_and_one_of_a_second_does_not() -> None:
    at_once = [0.0] * 4000
    assert count("bucket calls=3000/min", at_once) == 3000
    assert count("bucket calls=50/s", at_once) == 50


def test_a_fixed_window_admits_twice_its_amount_around_its_end_and_a_sliding_one_does_not() -> None:
    around = [0.0] + [59.9] * 3000 + [60.0] * 3000
    assert count("window calls=3000/min", around) == 6000
    assert count("sliding calls=3000/min", around) == 3001  # the first is a minute old


def test_where_refusals_count_hammering_keeps_the_door_shut() -> None:
    hammering = [n / 100 for n in range(1000)]
    assert count("bucket calls=50/s", hammering) == 549
    assert count("bucket calls=50/s rejects=count", hammering) == 99


def test_a_limit_that_halves_halves_and_comes_back() -> None:
    steady = [n / 50 for n in range(50 * 180)]
    verdict_words = verdicts("bucket calls=50/s change=60s:0.5,120s:1", steady)
    by_minute = [verdict_words[n * 3000 : (n + 1) * 3000].count("admitted") for n in range(3)]
    assert by_minute[0] == 3000 and 1499 <= by_minute[1] <= 1530 and by_minute[2] >= 2974


def test_a_second_tenant_uses_its_share_while_it_is_there() -> None:
    steady = [n / 100 for n in range(100 * 30)]
    verdict_words = verdicts("window calls=100/s tenant=0.4@10s-20s", steady)
    shares = [verdict_words[n * 1000 : (n + 1) * 1000].count("admitted") for n in range(3)]
    assert shares[0] == shares[2] == 1000 and 600 <= shares[1] <= 800


def test_a_tenant_costs_no_time_after_a_day_of_silence() -> None:
    limit = parse("bucket calls=50/s tokens=1e6/min tenant=0.5")
    state = admit(limit, start(0.0), 0.0)[0]
    later = advance(limit, state, 1e8)
    assert later.now == 1e8
    assert 0 < remaining(limit, later)["requests"].left <= 50


def test_a_model_is_cold_from_the_first_call_on_and_an_outage_has_its_time() -> None:
    moments = [100.0, 119.9, 120.0, 159.9, 160.0, 189.9, 190.0]
    assert verdicts("cold=20s outage=60s-90s", moments) == [
        "cold",
        "cold",
        "admitted",
        "admitted",
        "outage",
        "outage",
        "admitted",
    ]


def test_a_call_larger_than_the_limit_itself_is_never_admitted_and_reported_as_such() -> None:
    limit = parse("bucket tokens=1000/s")
    state, verdict = admit(limit, start(0.0), 0.0, tokens=1001)
    assert verdict == Verdict("too_large", "tokens", math.inf)
    assert admit(limit, state, 0.0, tokens=1000)[1].word == "admitted"


def test_a_clock_that_is_set_back_gives_nothing_away() -> None:
    limit = parse("bucket calls=1/s")
    state = admit(limit, start(10.0), 10.0)[0]
    for now in (10.0, 3.0, -1e9, 10.5):
        state, verdict = admit(limit, state, now)
        assert verdict.word == "rate"


def test_the_longest_wait_names_the_rate_that_binds() -> None:
    limit = parse("bucket calls=1/s tokens=100/min")
    state = admit(limit, start(0.0), 0.0, tokens=100)[0]
    assert admit(limit, state, 0.0, tokens=10)[1] == Verdict("rate", "tokens", pytest.approx(6.0))
    assert admit(limit, state, 0.0, tokens=0)[1] == Verdict("rate", "requests", pytest.approx(1.0))


def test_latency_is_log_normal_around_its_median() -> None:
    import random

    draw, rng = latency(parse("latency=200ms sigma=0.5")), random.Random(1)
    drawn = sorted(draw(rng) for _ in range(4001))
    assert drawn[2000] == pytest.approx(0.2, rel=0.05)
    assert drawn[3900] == pytest.approx(0.2 * math.exp(0.5 * 1.96), rel=0.1)
    assert latency(parse("latency=2s"))(rng) == 2.0


# Headers


def reported_headers(words: str, calls: int, tokens: int = 0) -> dict[str, str]:
    """The headers of the last of `calls` simultaneous calls."""
    limit, state, verdict = parse(words), start(0.0), Verdict("admitted")
    for _ in range(calls):
        state, verdict = admit(limit, state, 0.0, tokens=tokens)
    return dict(headers(limit, state, verdict, WALL))


@pytest.mark.parametrize(
    ("words", "calls", "tokens", "expected"),
    [
        ("bucket calls=50/s", 1, 0, {}),
        (
            "bucket calls=60/min tokens=150000/min headers=openai",
            1,
            16,
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-tokens": "7ms",
            },
        ),
        (
            "bucket calls=50/s headers=openai",  # it speaks of minutes, whatever it counts by
            51,
            0,
            {
                "x-ratelimit-limit-requests": "3000",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "retry-after": "1",
            },
        ),
        (
            "bucket calls=50/s headers=openai reported=1e9 retry=none",
            51,
            0,
            {
                "x-ratelimit-limit-requests": "1000000000",
                "x-ratelimit-remaining-requests": "999997000",
                "x-ratelimit-reset-requests": "1s",
            },
        ),
        (
            "window calls=60/min headers=openai reset=iso",
            1,
            0,
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "2026-01-01T00:01:00Z",
            },
        ),
        (
            "window calls=2/min headers=openai reset=epoch",
            3,
            0,
            {
                "x-ratelimit-limit-requests": "2",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1767225660",
                "retry-after": "60",
            },
        ),
        (
            "window calls=500/5min headers=hub",
            1,
            0,
            {
                "RateLimit": '"api";r=499;t=300',
                "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
            },
        ),
        (
            "bucket calls=1000/day tokens=60000/min headers=cerebras",
            1,
            500,
            {
                "x-ratelimit-limit-requests-day": "1000",
                "x-ratelimit-remaining-requests-day": "999",
                "x-ratelimit-reset-requests-day": "86.40",
                "x-ratelimit-limit-tokens-minute": "60000",
                "x-ratelimit-remaining-tokens-minute": "59500",
                "x-ratelimit-reset-tokens-minute": "0.50",
            },
        ),
        (
            "bucket calls=600/min headers=together",
            1,
            0,
            {
                "x-ratelimit-limit": "10",
                "x-ratelimit-remaining": "9",
                "x-ratelimit-reset": "1",
                "retry-after": "2",  # on a 200
            },
        ),
        (
            "bucket calls=600/min headers=replicate",
            1,
            0,
            {"ratelimit-remaining": "599", "ratelimit-reset": "1"},
        ),
        ("bucket calls=50/s retry=seconds", 51, 0, {"retry-after": "1"}),
        ("bucket calls=50/s retry=decimal", 51, 0, {"retry-after": "0.02"}),
        ("bucket calls=50/s retry=ms", 51, 0, {"retry-after-ms": "20", "retry-after": "1"}),
        (
            "bucket calls=2/min retry=date",
            3,
            0,
            {"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"},
        ),
        ("bucket calls=50/s retry=none", 51, 0, {}),
        ("slots=1", 2, 0, {}),
        ("slots=1 retry=seconds", 2, 0, {"retry-after": "1"}),
        ("bucket tokens=10/s", 1, 11, {}),  # no waiting helps
        ("cold=20s headers=openai calls=1/s", 2, 0, {}),
    ],
)
def test_headers_are_those_of_each_service(
    words: str, calls: int, tokens: int, expected: dict[str, str]
) -> None:
    assert reported_headers(words, calls, tokens) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1e-10, "0s"),
        (0.0004, "1ms"),
        (0.012, "12ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3723, "1h2m3s"),
        (3600.5, "1h0m0.5s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


# Words


def test_limits_in_words() -> None:
    limit = parse(
        "window calls=500/5min tokens=1e6/min slots=32 permits=512 rejects=count"
        " change=60s:0.5,2min:1 tenant=0.4@60s-120s cold=20s outage=60s-90s,1h-"
        " outage_status=reset headers=hub reset=iso retry=ms reported=1e9 latency=200ms sigma=0.5"
    )
    assert (limit.counts, limit.slots, limit.permits, limit.rejects_count) == (
        "window",
        32,
        512,
        True,
    )
    assert limit.calls is not None and (limit.calls.amount, limit.calls.seconds) == (500, 300)
    assert limit.tokens is not None and (limit.tokens.amount, limit.tokens.seconds) == (1e6, 60)
    assert [(one.at, one.factor) for one in limit.changes] == [(60, 0.5), (120, 1)]
    assert (limit.tenant, limit.tenant_during.begin, limit.tenant_during.end) == (0.4, 60, 120)
    assert [(one.begin, one.end) for one in limit.outages] == [(60, 90), (3600, math.inf)]
    assert (limit.cold_seconds, limit.outage_status, limit.reported) == (20, None, 1e9)
    assert (limit.headers, limit.reset, limit.retry) == ("hub", "iso", "ms")
    assert (limit.latency_seconds, limit.sigma) == (0.2, 0.5)
    assert len(TABLE) == 6 and all(parse(words) for words in TABLE.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "limit ``: nothing is limited"),
        ("bucket", "limit `bucket`: nothing is limited"),
        ("bucket calls=0/s", "`calls=0/s`: must be a number from 1 to 1e+12"),
        ("bucket calls=-5/s", "`calls=-5/s`: must be a number from 1 to 1e+12"),
        ("bucket calls=nan/s", "`calls=nan/s`: must be a number"),
        ("bucket calls=1e999/s", "`calls=1e999/s`: must be a number"),
        ("bucket calls=50", "`calls=50`: must be a rate such as"),
        ("bucket calls=50/0s", "`calls=50/0s`: must be a number from 0.001"),
        ("bucket calls=5/s calls=6/s", "`calls` is given twice"),
        ("bucket window calls=5/s", "`counts` is given twice"),
        ("leaky calls=5/s", "cannot read `leaky`"),
        ("call=5/s", "cannot read `call=5/s`"),
        ("slots=0", "`slots=0`: must be a whole number"),
        ("slots=３", "`slots=３`: must be a whole number"),
        ("calls=5/s tenant=1", "`tenant=1`: must be a number from 0 to 0.95"),
        ("calls=5/s change=9s:1,3s:2", "must be in the order of time"),
        ("calls=5/s change=9s:0", "must be a number from 1e-06"),
        ("slots=3 change=9s:0.5", "`change` has no effect without `calls` or `tokens`"),
        ("outage=9s-9s", "must end after it begins"),
        ("outage=9s", "must be an interval"),
        ("outage=9s-10s outage_status=200", "must be a status from 400 to 599"),
        ("cold=soon", "must be a time such as"),
        ("calls=5/s headers=azure", "must be one of none, openai, hub"),
    ],
)
def test_limits_that_cannot_be_read_are_refused_in_one_line(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"limit `{words}`: ")


# On a socket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL + self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


Post = Callable[..., Awaitable[tuple[int, Any, dict[str, str]]]]


def talk(play: Callable[[Mock, Post, Clock], Awaitable[None]], **options: Any) -> Mock:
    """Runs `play` against a mock whose clock it sets."""

    async def run() -> Mock:
        time = Clock()
        options.setdefault("sleep", time.sleep)
        async with (
            Mock(clock=time, wall=time.wall, **options) as mock,
            aiohttp.ClientSession() as session,
        ):

            async def post(path: str, body: Any, **options: Any) -> tuple[int, Any, dict[str, str]]:
                async with session.post(mock.url + path, json=body, **options) as response:
                    raw = await response.read()
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    return response.status, json.loads(raw), headers

            await play(mock, post, time)
        return mock

    return asyncio.run(run())


EMBED = {"model": "m", "input": ["four byte words"]}


def test_openai_refuses_with_its_own_words_and_headers() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        path = "/v1/embeddings"
        status, _, headers = await post(path, EMBED)
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "60")
        assert headers["x-request-id"]
        assert (await post(path, EMBED))[0] == 200
        status, body, headers = await post(path, EMBED)
        assert (status, headers["retry-after"], headers["x-ratelimit-remaining-requests"]) == (
            429,
            "1",
            "0",
        )
        assert body["error"] == {
            "message": "Rate limit reached for m in organization org-mock on requests per min"
            " (RPM): Limit 120, Used 120, Requested 1. Please try again in 500ms.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        time.now += 0.5
        assert (await post(path, EMBED))[0] == 200
        status, body, headers = await post(path, {"model": "m", "input": ["x" * 4000]})
        assert status == 429 and "retry-after" not in headers
        assert body["error"]["message"] == (
            "Request too large for m in organization org-mock on tokens per min (TPM):"
            " Limit 500, Requested 1000."
        )

    mock = talk(script, limit="bucket calls=2/s tokens=500/min headers=openai")
    passed = mock.document()["limit"]
    assert (passed.admitted, passed.refused) == (3, {"rate": 1, "too_large": 1})
    assert (passed.admitted_tokens, passed.peak_calls["1"]) == (12, 3)
    assert mock.bill.totals().by_status == {"200": 3, "429": 2}


def test_a_serverless_service_refuses_with_503() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        path = "/hf-inference/models/a/b/pipeline/feature-extraction"
        assert [(await post(path, {"inputs": "a"}))[0] for _ in range(2)] == [200, 503]

    talk(script, limit="bucket calls=1/s refuse=503")


def test_output_tokens_that_may_come_count_as_openai_counts_them() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        chat = {"model": "m", "messages": [{"role": "user", "content": "abcd"}]}
        headers = (await post("/v1/chat/completions", chat | {"max_tokens": 99}))[2]
        assert headers["x-ratelimit-remaining-tokens"] == "900"

    talk(script, limit="window tokens=1000/min headers=openai")


def test_tei_takes_a_permit_for_every_input_and_says_no_time_to_wait() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        entered, release = asyncio.Event(), asyncio.Event()

        async def hold(_: float) -> None:
            entered.set()
            await release.wait()

        mock.latency, mock.sleep = 1.0, hold
        first = asyncio.create_task(post("/embed", {"inputs": ["a"] * 30}))
        await entered.wait()
        status, body, headers = await post("/embed", {"inputs": ["a"] * 11})
        assert (status, body) == (
            429,
            {"error": "Model is overloaded", "error_type": "Overloaded"},
        )
        assert "retry-after" not in headers
        second = asyncio.create_task(post("/embed", {"inputs": ["a"] * 10}))
        release.set()
        assert (await first)[0] == (await second)[0] == 200
        assert (await post("/embed", {"inputs": ["a"] * 32}))[0] == 200
        async with aiohttp.request("GET", mock.url + "/info") as response:
            assert (await response.json())["max_concurrent_requests"] == 40

    mock = talk(script, limit="permits=40")
    assert mock.gate is not None and mock.gate.state.inputs_in_flight == 0


def test_a_slot_is_free_again_when_the_client_goes_away() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        entered, left = asyncio.Event(), asyncio.Event()

        async def hold(_: float) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        mock.latency, mock.sleep = 1.0, hold
        call = asyncio.create_task(post("/v1/embeddings", EMBED))
        await entered.wait()
        assert (await post("/v1/embeddings", EMBED))[0] == 429
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await left.wait()
        mock.latency = 0.0
        assert (await post("/v1/embeddings", EMBED))[0] == 200

    talk(script, limit="slots=1")


def test_cold_start_then_outage_then_reset_on_a_socket() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        path = "/hf-inference/models/a/b/pipeline/feature-extraction"
        status, body, _ = await post(path, {"inputs": "a"})
        assert (status, body) == (
            503,
            {"error": "Model a/b is currently loading", "estimated_time": 20.0},
        )
        time.now = 20.0
        assert (await post(path, {"inputs": "a"}))[0] == 200
        time.now = 60.0
        assert (await post(path, {"inputs": "a"}))[0] == 503
        mock.restrict("outage=0s-90s outage_status=reset")
        with pytest.raises(aiohttp.ClientError):
            await post(path, {"inputs": "a"})

    mock = talk(script, limit="cold=20s outage=60s-90s")
    assert mock.bill.totals().by_status == {"503": 2, "200": 1, "reset": 1}


def test_a_wrong_key_uses_up_nothing_and_a_call_that_cannot_be_read_does() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        wrong, right = ({"Authorization": f"Bearer {key}"} for key in ("x", "k"))
        path = "/v1/embeddings"
        assert [(await post(path, EMBED, headers=wrong))[0] for _ in range(3)] == [401] * 3
        assert (await post(path, {"model": "m"}, headers=right))[0] == 400
        assert (await post(path, EMBED, headers=right))[0] == 200
        assert (await post(path, EMBED, headers=right))[0] == 429
        mock.reset()
        assert (await post(path, EMBED, headers=right))[0] == 200

    talk(script, limit="window calls=2/min", key="k")


def test_faults_happen_behind_the_gate_and_count() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        statuses = [(await post("/v1/embeddings", EMBED))[0] for _ in range(4)]
        assert statuses == [500, 200, 429, 429]

    mock = talk(script, limit="window calls=2/min", script=["500 x1 after=0", "headers x-a:b"])
    assert mock.script.matched == [2, 1]


def test_the_limit_is_set_and_its_count_read_over_http() -> None:
    async def script(mock: Mock, post: Post, time: Clock) -> None:
        assert await limit_of(mock) is None
        status, body, _ = await post("/_mock/limit", "bucket calls=1/s")
        assert (status, body["admitted"]) == (200, 0)
        assert [(await post("/v1/embeddings", EMBED))[0] for _ in range(2)] == [200, 429]
        assert (await limit_of(mock))["refused"] == {"rate": 1}
        status, body, _ = await post("/_mock/limit", "bucket calls=0/s")
        assert status == 400 and body["error"].startswith("limit `bucket calls=0/s`: ")
        assert (await post("/_mock/limit", 3))[0] == 400
        async with aiohttp.request("POST", mock.url + "/_mock/limit", data=b"null") as response:
            assert (response.status, await response.json()) == (200, None)
        assert (await post("/v1/embeddings", EMBED))[0] == 200

    talk(script)


async def limit_of(mock: Mock) -> Any:
    async with aiohttp.request("GET", mock.url + "/_mock/limit") as response:
        return await response.json()


def test_the_command_refuses_a_limit_that_it_cannot_read() -> None:
    with pytest.raises(UsageError, match="limit `bucket calls=fast`: "):
        serve(port=0, limit="bucket calls=fast")


# Simulated


def request(number: int, tokens: int = 10) -> Request:
    text = f"text {number}"
    return Request(text.encode().ljust(32, b"."), text, tokens, Chunk(0, len(text), tokens))


def test_refusals_arrive_as_the_client_s_own_code_reads_them() -> None:
    async def main() -> tuple[list[tuple[str, int | None, float | None]], list[str | None]]:
        server = SimulatedServer(
            "bucket calls=1/min retry=date cold=5s outage=100s-200s",
            script=["422 match=poison"],
        )
        errors, headers = [], []
        for at, text in ((0, "a"), (6, "a"), (6.5, "a"), (70, "poison"), (150, "a")):
            await anyio.sleep_until(at)
            try:
                await server.send([request(0), Request(b"k" * 32, text, 1, Chunk(0, 1, 1))])
            except EndpointError as error:
                errors.append((error.kind, error.status, error.retry_after))
                headers.append(error.headers.get("retry-after"))
        assert server.answered == {"text 0": 1, "a": 1}
        return errors, headers

    errors, headers = clock.run(main)
    assert errors == [
        ("loading", 503, 5.0),
        ("rate", 429, pytest.approx(60, abs=1)),
        ("poison", 422, None),
        ("overload", 503, None),
    ]
    assert headers[1] == "Thu, 01 Jan 2026 00:01:06 GMT"


def test_vectors_where_a_dimension_is_given_and_broken_bytes_never() -> None:
    async def main() -> tuple[list[Any], float]:
        server = SimulatedServer("slots=1 latency=200ms", dimension=8)
        return await server.send([request(1), request(2)]), anyio.current_time()

    (answers, headers), seconds = clock.run(main)
    assert headers["date"] == "Thu, 01 Jan 2026 00:00:00 GMT"
    assert [len(one.value) for one in answers] == [32, 32] and seconds == 0.2
    with pytest.raises(UsageError, match="`half_body` breaks bytes"):
        clock.run(lambda: _made("slots=1", script=["half_body"]))


async def _made(limit: str, **options: Any) -> SimulatedServer:
    return SimulatedServer(limit, **options)


def test_a_call_that_is_given_up_frees_its_slot() -> None:
    async def main() -> tuple[int, int]:
        server = SimulatedServer("slots=1", script=["hang x1"])
        with anyio.move_on_after(600):
            await server.send([request(1)])
        await server.send([request(1)])
        return server.gate.state.in_flight, server.in_flight

    assert clock.run(main) == (0, 0)


def dispatched(place: Any, words: str, requests: int, seed: int = 0) -> tuple[Any, ...]:
    """The real dispatcher against this limit, on a virtual clock."""
    cache = AnswerCache(place)

    async def main() -> tuple[Any, ...]:
        import random

        server = SimulatedServer(words, seed=seed)
        endpoint = Endpoint(
            "sim",
            "openai",
            "chat-completion",
            "m",
            ("openai", "", "m", ""),
            concurrency=16,
            batch_size=1,
        )
        dispatch = Dispatch(
            [(endpoint, server.send)],
            cache,
            lambda _: None,
            free_bytes=lambda: 1 << 40,
            clock=anyio.current_time,
            uniform=random.Random(seed).random,
        )
        group = Group()
        async with anyio.create_task_group() as running:
            running.start_soon(dispatch.run)
            await dispatch.admit(group, [request(n) for n in range(requests)])
            await group.whole.wait()
            dispatch.close()
        return (
            server.answered.total(),
            len(server.answered),
            server.gate.figures(),
            anyio.current_time(),
        )

    try:
        return clock.run(main, seed=seed)
    finally:
        cache.close()


@pytest.mark.parametrize("kind", TABLE)
def test_the_dispatcher_runs_unchanged_against_every_kind_of_limit(
    kind: str, tmp_path: Any
) -> None:
    words = TABLE[kind].replace("=300s", "=2s")
    words += "" if "latency" in words else " latency=50ms sigma=0.5"
    answered, distinct, figures, seconds = dispatched(tmp_path / "a", words, 200)
    assert (answered, distinct, figures.admitted) == (200, 200, 200)
    assert seconds > 0.5
    if kind in ("bucket 1 s", "429s count", "limit halves"):
        assert figures.peak_calls["1"] <= 100


def test_the_same_seed_gives_the_same_run(tmp_path: Any) -> None:
    words = "bucket calls=20/s rejects=count tenant=0.3 latency=50ms sigma=1"
    runs = [dispatched(tmp_path / str(n), words, 150, seed) for n, seed in enumerate((1, 1, 2))]
    assert runs[0] == runs[1] != runs[2]


def test_goodput_is_the_share_of_what_could_be_had() -> None:
    time = Clock()
    gate = Gate(parse("bucket calls=10/s cold=5s outage=20s-30s change=40s:0.5"), clock=time)
    for n in range(600):
        time.now = n / 10
        passage = gate.enter("openai", "m", 1, 1)
        if passage.is_open:
            gate.leave(passage)
    # 5 to 20 and 30 to 40 s whole, 40 to 60 s half: 350 calls; the first second's worth on top.
    figures = gate.figures()
    assert figures.goodput == pytest.approx(1.0, abs=0.02)
    assert figures.refused["cold"] == 50 and figures.refused["outage"] == 100
    assert figures.rejects_share == pytest.approx(gate.traffic.refused["rate"] / 600)
    assert gate.traffic.goodput(5, 20) == pytest.approx(1.0)
    assert gate.traffic.goodput(45, 55) == pytest.approx(1.0, abs=0.03)
