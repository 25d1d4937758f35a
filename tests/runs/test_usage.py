"""What a run took is one sum: over its calls, its endpoints, the register, the ledger and the bill."""

import json
from collections import Counter

import pytest

from jobs.mock import serving
from tests.support.served import KEY, at, balanced, given, job, rows

TROUBLE = ["500 20%", "429 10% retry-after:0", "reset 5%", "half_body 5%", "nan 10%", "html 5%"]
SUMS = ("calls", "requests", "errors", "ambiguous", "unpriced_calls", "input_tokens", "output_tokens", "cost_usd", "seconds")
PRICE = {"request": 0.001, "input": 2.0}


def total(usages, names=SUMS):
    return {name: pytest.approx(sum(usage[name] for usage in usages)) for name in names}


def picked(record, names=SUMS):
    return {name: record[name] for name in names}


def of_events(found, names):
    """The lines of every run's events.jsonl, summed by endpoint."""
    sums = {}
    for path in found:
        for line in map(json.loads, path.read_text().splitlines()):
            if line["event"] == "calls":
                usage = sums.setdefault(line["endpoint"], Counter())
                usage.update({name: line[name] for name in names})
                usage["requests"] += line["requests"] if line["error"] is None else 0
    return sums


@pytest.mark.parametrize("seed", range(2))
def test_the_sum_over_endpoints_is_the_total_wherever_it_is_told(workdir, textmill, seed):
    given(workdir, rows(120))
    with serving(TROUBLE, key=KEY, seed=seed) as one, serving(TROUBLE, key=KEY, seed=9) as two:
        path = job(workdir, at(one, "one", model="m", batch_size=4, price=PRICE),
                   at(two, "two", model="m", batch_size=4, price=PRICE, replica_of="one"))
        first = textmill("run", path, "--json")
        balanced(first, code=first.code if first.code == 3 else 0)
        for mock in (one, two):
            mock.play()
        given(workdir, rows(140))
        before = one.bill.totals().inputs + two.bill.totals().inputs
        again = balanced(textmill("run", path, "--json"))
        sent = one.bill.totals().inputs + two.bill.totals().inputs - before
        # The texts of the drift check are paid for, and are no requests of the run.
        assert sent > again["requests"] - again["cached"]
        told = [first.last, again]
        assert sum(each["errors"] for each in first.last["endpoints"]) > 0

        for run in told:
            sums = total(run["endpoints"])
            assert (run["calls"], run["cost_usd"]) == (sums["calls"], sums["cost_usd"])
            tokens = sum(each["input_tokens"] + each["output_tokens"] for each in run["endpoints"])
            assert run["tokens"] == tokens
            assert sum(each["requests"] for each in run["endpoints"]) <= run["requests"] - run["cached"]
        assert again["requests"] - again["cached"] == total(again["endpoints"])["requests"]

        found = json.loads(textmill("status", "--json").out)
        for run, listed in zip(reversed(told), found["runs"], strict=True):
            assert listed["endpoints"] == {
                each["name"]: picked(each, (*SUMS, "slowest_seconds")) for each in run["endpoints"]}
            own = ("requests", "cached", "calls", "tokens", "cost_usd", "seconds", "exit", "class")
            assert picked(listed, own) == picked(run, own)
        (day,) = found["ledger"]
        assert picked(day, ("calls", "tokens", "cost_usd", "requests")) == total(
            told, ("calls", "tokens", "cost_usd", "requests"))
        for name, usage in day["endpoints"].items():
            mine = [run["endpoints"][name] for run in found["runs"]]
            assert picked(usage) == total(mine)
        kept = ("calls", "errors", "input_tokens", "cost_usd", "seconds")
        events = of_events(workdir.glob("*.run/runs/*/events.jsonl"), kept)
        for name, usage in day["endpoints"].items():
            assert picked(usage, (*kept, "requests")) == pytest.approx(dict(events[name]), abs=0.01)
        for mock, name in ((one, "one"), (two, "two")):
            assert mock.bill.totals().calls == day["endpoints"][name]["calls"]
