"""The remaining work is counted, not estimated."""

import json

import pytest

from jobs.build import build
from jobs.mock import serving
from jobs.spec.load import load
from pipeline.cache.store import AnswerCache
from pipeline.plan import CallTime, Plan, plan
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.requests import prepare
from pipeline.records import Answer
from pipeline.source.scan import survey

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def words(count, first="one"):
    """A text of `count` tokens."""
    return " ".join([first, *(["word"] * (count - 1))])


def pipeline(tmp_path, rows, template="embed", **flags):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"input.path": str(path), "chunk.method": "fixed", "chunk.size": 10,
                "chunk.overlap": 0, "endpoint.kind": "openai", "endpoint.model": "m",
                "endpoint.url": "http://127.0.0.1:9/v1"}
    return build(load(template, flags=settings | flags, needs_output=False), with_secret=False)


def planned(made, cache=None):
    return plan(made, survey(made.input), cache)


def test_documents_chunks_calls_and_tokens_are_counted(tmp_path):
    rows = [{"text": words(25, first)} for first in NUMBERS]
    made = pipeline(tmp_path, rows, **{"endpoint.batch_size": 8, "endpoint.concurrency": 2})
    # Each text is cut into 10, 10 and 5 tokens; the second and the third are the same in all.
    assert planned(made) == Plan(10, 30, 30, 18, 2, 115, None, None, ("openai",))


def test_every_part_of_a_batch_of_tokens_is_a_call(tmp_path):
    rows = [{"text": words(7, first)} for first in NUMBERS]
    made = pipeline(tmp_path, rows, **{"endpoint.batch_tokens": 15})
    assert (planned(made).requests, planned(made).calls, planned(made).tokens) == (10, 5, 70)
    made = pipeline(tmp_path, rows, **{"endpoint.batch_tokens": 1})
    assert planned(made).calls == 10


def test_blank_and_unreadable_rows_need_no_request(tmp_path):
    made = pipeline(tmp_path, [{"text": ""}, {"text": " \n"}, {"text": 7}, {"text": "one"}])
    assert planned(made) == Plan(4, 1, 1, 0, 1, 1, None, None, ("openai",))
    assert planned(pipeline(tmp_path, [{"text": " "}])) == Plan(1, 0, 0, 0, 0, 0, 0.0, 0.0)


def test_cached_requests_are_neither_sent_nor_paid(tmp_path):
    rows = [{"text": words(5, first)} for first in NUMBERS]
    made = pipeline(tmp_path, rows, **{"endpoint.price.input": 1_000.0})
    (group,) = prepare(RequestFactory(made, made.endpoints), survey(made.input))
    cache = AnswerCache(tmp_path / "answers")
    cache.put_many([(each.requests[0].key, Answer(b"\0\0\0\0")) for each in group[:7]])
    assert planned(made, cache) == Plan(10, 10, 10, 7, 1, 15, 0.015, None)
    cache.put_many([(each.requests[0].key, Answer(b"\0\0\0\0")) for each in group[7:]])
    assert planned(made, cache) == Plan(10, 10, 10, 10, 0, 0, 0.0, 0.0)
    cache.close()


def test_a_text_task_counts_the_whole_prompt_and_the_longest_answer(tmp_path):
    rows = [{"text": words(5, first)} for first in NUMBERS]
    made = pipeline(tmp_path, rows, "ask", **{
        "parameters.prompt": "Say it again: {chunk}", "parameters.max_tokens": 100,
        "endpoint.price.input": 1_000.0, "endpoint.price.output": 10_000.0,
        "endpoint.price.request": 0.5, "endpoint.concurrency": 5,
    })
    # 4 tokens of prompt and 5 of text; 10 answers of 100 tokens; 10 requests.
    assert planned(made) == Plan(10, 10, 10, 0, 10, 90, 15.09, None)


def test_the_time_and_a_price_by_time_follow_from_measured_calls(tmp_path):
    rows = [{"text": words(5, first)} for first in NUMBERS]
    made = pipeline(tmp_path, rows, "ask", **{"endpoint.price.second": 0.25, "endpoint.price.hour": 36.0})
    assert (planned(made).cost_usd, planned(made).unpriced) == (None, ("openai",))
    read = survey(made.input)
    met = plan(made, read, None, {"openai": CallTime(seconds=2.0, run_seconds=0.5)})
    # 10 calls of 2 s cost $5.00; they take 5 s of a run, whose rent is 5 cents.
    assert (met.seconds, met.cost_usd, met.unpriced) == (5.0, pytest.approx(5.05), ())
    assert plan(made, read, None, {"another": CallTime(2.0, 0.5)}).seconds is None


@pytest.mark.parametrize("size", [8, 32])
def test_a_run_matches_its_plan(tmp_path, textmill, size):
    rows = [{"text": words(25, first), "other": f"new {first}"} for first in NUMBERS] + [{"text": ""}, {"text": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving() as mock:
        job = ["embed", "-i", tmp_path / "in.jsonl", "--kind", "openai", "--model", "m",
               "--method", "fixed", "--size", 8, "--overlap", 0, "--url", f"{mock.url}/v1",
               "--batch-size", size, "--concurrency", 1]
        plan_line = textmill("plan", *job, "--json").last
        assert mock.bill.totals().calls == 0
        ran = textmill("run", *job, "-o", tmp_path / "out.parquet", "--json").last
        again = textmill("plan", *job, "--json").last
        new = ["--json", "--set", "input.text=other"]
        met = textmill("plan", *job, *new).last
        never_met = textmill("plan", *job, *new, "--set", f"endpoint.url={mock.url}/other/v1").last
    assert (plan_line["seconds"], again["seconds"], never_met["seconds"]) == (None, 0.0, None)
    assert met["calls"] > 0 and met["seconds"] is not None
    names = ("documents", "requests", "cached", "calls")
    assert {name: ran[name] for name in names} == {name: plan_line[name] for name in names}
    assert mock.bill.totals().inputs == plan_line["requests"] - plan_line["cached"]
    assert (again["cached"], again["calls"], again["tokens"]) == (plan_line["requests"], 0, 0)


def test_a_plan_over_the_budget_exits_8_and_shows_what_it_counted(tmp_path, textmill):
    (tmp_path / "in.jsonl").write_text('{"text": "one two three"}\n')
    job = ["plan", "embed", "-i", tmp_path / "in.jsonl", "--kind", "openai", "--model", "m",
           "--set", "endpoint.price.request=0.5", "--max-cost-usd", "0.25"]
    ran = textmill(*job)
    assert (ran.code, ran.out, ran.err) == (
        8,
        "1 document, 1 chunk, 1 request, 0 cached\n"
        "left to do: 1 call, 3 tokens, up to $0.50, time unknown\n",
        "over budget.max_cost_usd = 0.25\n",
    )
    no_price = textmill(*job[:-4])
    assert no_price.out.endswith("cost unknown (`openai` has no known `price`), time unknown\n")
    (tmp_path / "two.toml").write_text(
        'task = "chat-completion"\nroute = "weighted"\n[parameters]\nprompt = "{chunk}"\n'
        + "".join(f'[[endpoint]]\nkind = "openai"\nname = "{name}"\nmodel = "m"\n{price}' for name, price in
                  (("paid", "weight = 9\nprice = { request = 0.5 }\n"), ("free", "")))
    )  # fmt: skip
    paid = textmill("plan", tmp_path / "two.toml", "-i", tmp_path / "in.jsonl")
    assert "1 call, 3 tokens, up to $0.50, " in paid.out  # `free` gets no call
    (tmp_path / "20.jsonl").write_text("".join(f'{{"text": "row {n}"}}\n' for n in range(20)))
    both = textmill("plan", tmp_path / "two.toml", "-i", tmp_path / "20.jsonl")
    assert "up to $9.00 plus an unknown cost (`free` has no known `price`), " in both.out
    both = textmill("plan", tmp_path / "two.toml", "-i", tmp_path / "20.jsonl", "--json")
    assert (both.last["cost_usd"], both.last["unpriced"]) == (9.0, ["free"])
    assert textmill(*job, "--stop-at-cap").code == 0
    assert textmill(*job, "--json").last["cost_usd"] == 0.5


@pytest.mark.parametrize(("price", "shown"), [("0.5", "$0.50"), ("0.0001", "$0.01"), ("0.07", "$0.07")])
def test_a_bound_on_the_cost_is_never_rounded_down(tmp_path, textmill, price, shown):
    (tmp_path / "in.jsonl").write_text('{"text": "one two three"}\n')
    ran = textmill("plan", "embed", "-i", tmp_path / "in.jsonl", "--kind", "openai", "--model", "m",
                   "--set", f"endpoint.price.request={price}")  # fmt: skip
    assert f"up to {shown}, " in ran.out


@pytest.mark.parametrize(("row", "is_reported"), [
    ('{"text": "a", "sensitive": false}', False), ('{"text": "a", "sensitive": null}', False),
    ('{"text": "a", "sensitiv": false}', True), ("", False),
])  # fmt: skip
def test_a_missing_column_of_a_rule_is_reported(tmp_path, textmill, row, is_reported):
    (tmp_path / "in.jsonl").write_text(row + "\n" if row else "")
    (tmp_path / "job.toml").write_text(
        'task = "feature-extraction"\n[input]\npath = "in.jsonl"\n[[endpoint]]\nkind = "local"\n'
        '[[rule]]\ncolumn = "sensitive"\nequals = true\nendpoints = ["local"]\n'
    )
    ran = textmill("plan", tmp_path / "job.toml")
    line = ("rule.column: no row has the column `sensitive` (did you mean `sensitiv`?), the rule "
            "applies to every row\n")  # fmt: skip
    assert (ran.code, ran.err) == (0, line if is_reported else "")
    ran = textmill("run", tmp_path / "job.toml", "-o", tmp_path / "out.parquet")
    assert ran.code == 0 and (line in ran.err) == is_reported
