"""Random jobs on a virtual clock: endpoints that hang, fail, pause and share models, rules, equal
texts. Whatever happens, every row is accounted for, rules hold, no key is paid twice."""

import random
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.keys import Keys
from pipeline.errors import EndpointError, OutageError
from pipeline.prepare.routes import Router
from pipeline.records import Answer, Failure, Rule, Stop
from tests.support.routed import DEADLINE_SECONDS, Service, endpoint, run

TROUBLES = ["none", "none", "hangs", "hangs later", "hangs at times", "gone", "away", "500 40%", "429",
            "refuses some", "slow"]  # fmt: skip


def script(trouble, rng):
    """How an endpoint behaves: a function of a call's texts and the time."""

    def error(kind, status, **more):
        return EndpointError(kind, trouble, status=status, **more)

    def play(inputs, now):
        match trouble:
            case "hangs":
                return "hang"
            case "hangs later":
                return "hang" if now > 1 else None
            case "hangs at times":
                return "hang" if rng.random() < 0.02 else None
            case "gone":
                return error("unreachable", None)
            case "away":
                return error("overload", 503, retry_after=5.0) if 0.5 < now < 30 else None
            case "500 40%":
                return error("transient", 500) if rng.random() < 0.4 else None
            case "429":
                return error("rate", 429, retry_after=1.0) if rng.random() < 0.1 else None
            case "refuses some":
                return error("poison", 422) if any(text.endswith("7") for text in inputs) else None
        return None

    return play


class Job:
    """A random job: endpoints of two models at most, rules, rows with equal texts."""

    def __init__(self, seed):
        rng = self.rng = random.Random(seed)
        self.policy = rng.choice(["ordered", "cheapest", "fastest", "weighted"])
        names = ["a", "b", "c", "d"][: rng.randint(2, 4)]
        self.troubles = {name: rng.choice(TROUBLES) for name in names}
        self.troubles[rng.choice(names)] = "none"
        self.endpoints = [
            endpoint(name, rng.choice(["m", "m", "n"]), concurrency=rng.choice([1, 2, 8]),
                     batch_size=rng.choice([1, 1, 4]), weight=rng.choice([1.0, 3.0]),
                     is_fallback=bool(at) and rng.random() < 0.3,
                     requests_per_minute=rng.choice([None, None, 600.0]))
            for at, name in enumerate(names)
        ]  # fmt: skip
        self.services = {
            name: Service(name, 5.0 if self.troubles[name] == "slow" else rng.choice([0.05, 0.2]),
                          script(self.troubles[name], rng))
            for name in names
        }  # fmt: skip
        self.rules = [
            Rule("to", value, tuple(rng.sample(names, rng.randint(1, len(names)))))
            for value in ("x", "y", "z")[: rng.randint(0, 3)]
        ]
        texts = [f"text {n}" for n in range(rng.randint(20, 120))]
        self.rows = [(rng.choice(texts), {"to": rng.choice(["x", "y", "z", "open"])})
                     for _ in range(rng.randint(50, 250))]  # fmt: skip
        router = Router(self.endpoints, self.rules)
        self.rows = [row for row in self.rows if router.route(row[1]) is not None]
        self.routes = [router.route(fields) for _, fields in self.rows]

    def run(self):
        served = [(each, self.services[each.name]) for each in self.endpoints]
        with tempfile.TemporaryDirectory() as folder:
            return run(Path(folder), served, self.rows, self.rules, admitted=self.rng.choice([16, 1_000]),
                       policy=self.policy, patience=Stop(max_outage_seconds=1_200.0))  # fmt: skip

    def allowed(self):
        """The texts that each endpoint may see."""
        found = defaultdict(set)
        for (text, _), route in zip(self.rows, self.routes, strict=True):
            for position in route.positions:
                found[self.endpoints[position].name].add(text)
        return found

    def is_always_away(self, name):
        return self.troubles[name] in ("hangs", "hangs later", "gone")


def check(job):
    ended = job.run()
    # Rules: a text reaches only the endpoints that one of its rows allows.
    allowed = job.allowed()
    for name, service in job.services.items():
        assert set(service.texts) <= allowed[name], name
    # No key is paid twice: no two answers to one text of one model.
    model = {each.name: each.model for each in job.endpoints}
    paid = Counter((model[s.name], text) for s in job.services.values() for text, _ in s.answered)
    assert not {key: count for key, count in paid.items() if count > 1}
    tally = ended.dispatch.tally
    assert tally.requests == len(job.rows)
    assert ended.dispatch.usage.requests == sum(len(s.answered) for s in job.services.values())
    if ended.error is not None:
        # An outage ends a run only where all that may still answer a row are away: its whole route,
        # or the tiers that are left after one refused it.
        assert isinstance(ended.error, OutageError)
        assert any(all(job.is_always_away(job.endpoints[at].name) for tier in route.tiers[first:] for at in tier)
                   for route in job.routes for first in range(len(route.tiers)))  # fmt: skip
        return ended
    # Every row has an answer of a model that it allows, or a failure.
    keys = Keys(job.endpoints)
    assert keys.endpoints == len(job.endpoints)
    for outcome, route in zip(ended.answers, job.routes, strict=True):
        assert isinstance(outcome, Answer | Failure)
        if isinstance(outcome, Answer):
            models = {job.endpoints[at].model for at in route.positions}
            assert model[outcome.value.partition(":")[0]] in models
        else:
            assert job.troubles[job.endpoints[route.positions[0]].name] != "none" or len(route.positions) > 1
    # A request waits for a hung call at most, never for a hung endpoint: one deadline for each of
    # its attempts there, while all others flow.
    hung = sum(job.troubles[name].startswith("hang") for name in job.services)
    if not hung:
        assert ended.seconds < 400
    return ended


@pytest.mark.parametrize("seed", range(24))
def test_a_random_job_accounts_for_every_row_obeys_its_rules_and_pays_no_key_twice(seed):
    check(Job(seed))


@pytest.mark.slow  # each example is a whole run
@settings(max_examples=100)
@given(st.integers(1_000, 10**9))
def test_any_random_job_accounts_for_every_row_obeys_its_rules_and_pays_no_key_twice(seed):
    check(Job(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ["ordered", "cheapest", "fastest", "weighted"])
def test_nothing_waits_for_a_hung_endpoint_while_an_allowed_one_is_idle(tmp_path, policy, seed):
    rng = random.Random(seed)
    hung, well = Service("a", script=lambda inputs, now: "hang"), Service("b", 0.1)
    order = [(endpoint("a", "m", concurrency=8), hung), (endpoint("b", "m", concurrency=8), well)]
    rng.shuffle(order)
    rules = [Rule("to", "a", ("a", "b")), Rule("to", "b", ("b",))]
    rows = [(f"text {rng.randrange(300)}", {"to": rng.choice(["a", "b", "open"])}) for _ in range(400)]
    ended = run(tmp_path, order, rows, rules, policy=policy)
    assert ended.error is None
    texts = {text for text, _ in rows}
    held = {text for start, call in zip(hung.starts, hung.calls, strict=True) if start < 20
            for text in call}  # fmt: skip
    assert len(held) <= 8
    early = {text for text, at in well.answered if at < 20}
    assert early == texts - held
    assert ended.seconds < DEADLINE_SECONDS + 10
