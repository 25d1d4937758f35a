"""Several endpoints over real HTTP: who is asked, who answers, what it costs, what is left behind."""

import random
import shutil

import pytest

from jobs.mock import serving
from tests.support.served import (
    KEY,
    at,
    balanced,
    failures,
    given,
    job,
    paid,
    rows,
    same_as_ever,
    written,
)


def figures(told):
    return {each["name"]: each for each in told["endpoints"]}


def jittered(seconds):
    return lambda rng: seconds * (0.5 + rng.random())


# --- fallbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["unreachable", "503", "500", "hang"])
def test_fault_57_a_fallback_answers_under_its_own_key_and_name_while_the_first_is_down(
    workdir, textmill, monkeypatch, fault
):
    given(workdir, rows(24))
    deadline = {"first_byte_seconds": 0.05, "connect_seconds": 0.05}
    with serving(key=KEY) as first, serving(key=KEY) as spare:
        url = first.url
        if fault == "unreachable":
            with serving() as gone:
                url = gone.url
        else:
            first.play(fault)
        path = job(workdir, at(url, "first", deadline=deadline),
                   at(spare, "spare", fallback=True, concurrency=4), task="chat-completion")
        told = balanced(textmill("run", path, "--json", "--max-outage", "60"))
        assert told["ok"] == 24
        assert {row["_model"] for row in written(workdir)} == {"spare"}
        assert first.bill.totals().inputs == 0
        assert spare.bill.totals().inputs == 24
        paid([spare], told | {"endpoints": told["endpoints"][1:]})
        before = (workdir / "out.jsonl").read_bytes()
        # The first is back. Its answers would be others; those that are paid for stand.
        first.play()
        path.write_text(path.read_text().replace(url, first.url))
        told = balanced(textmill("run", path, "--json"))
        assert (told["calls"], told["cached"]) == (0, 24)
        assert (workdir / "out.jsonl").read_bytes() == before


def test_a_row_that_the_first_refuses_goes_to_the_fallback_and_its_neighbours_do_not(
    workdir, textmill, monkeypatch
):
    given(workdir, rows(40))
    with serving(["400 match='<7>'"], key=KEY) as first, serving(key=KEY) as spare:
        path = job(workdir, at(first, "first"), at(spare, "spare", fallback=True),
                   task="chat-completion")
        told = balanced(textmill("run", path, "--json"))
        models = [row["_model"] for row in written(workdir)]
        assert [n for n, model in enumerate(models) if model == "spare"] == [7]
        assert spare.bill.totals().calls == 1
        paid([first, spare], told)
        first.play()
        told = balanced(textmill("run", path, "--json"))
        assert told["calls"] == 0
        assert [row["_model"] for row in written(workdir)] == models


def test_what_both_refuse_is_one_failed_row(workdir, textmill, monkeypatch):
    given(workdir, rows(40))
    with serving(["400 match='<7>'"], key=KEY) as first, serving(["422 match='<7>'"]) as spare:
        path = job(workdir, at(first, "first"), at(spare, "spare", fallback=True),
                   task="chat-completion")
        told = balanced(textmill("run", path, "--json"), code=3)
        assert (told["ok"], told["failed"]) == (39, 1)
        (failure,) = failures(workdir)
        assert failure["id"] == 7
        paid([first, spare], told)
        same_as_ever(workdir, textmill, monkeypatch, path, first, spare)


def test_a_key_that_is_refused_stops_the_run_though_there_is_a_fallback(workdir, textmill):
    given(workdir, rows(40))
    with serving(key="another") as first, serving(key=KEY) as spare:
        path = job(workdir, at(first, "first"), at(spare, "spare", fallback=True),
                   task="chat-completion")
        ran = textmill("run", path, "--json")
        balanced(ran, code=7)
        assert "endpoint `first`" in ran.err
        assert first.bill.totals().calls <= 2


def test_max_outage_ends_a_run_when_all_that_may_answer_are_down(workdir, textmill, monkeypatch):
    given(workdir, rows(40))
    with serving(["503 after=3"], key=KEY) as first, serving(["503 after=3"], key=KEY) as spare:
        path = job(workdir, at(first, "first"), at(spare, "spare", fallback=True),
                   task="chat-completion")
        ran = textmill("run", path, "--json", "--max-outage", "0.8")
        told = balanced(ran, code=5)
        assert "endpoint `first` or `spare`: no answer for" in ran.err
        first.play()
        spare.play()
        again = balanced(textmill("run", path, "--json"))
        assert again["cached"] == 6
        paid([first, spare], told, again)


def test_a_resting_endpoint_is_probed_and_comes_back(workdir, textmill):
    given(workdir, rows(600))
    with (
        serving(["503 after=20 x2"], key=KEY, latency=jittered(0.004)) as first,
        serving(key=KEY, latency=jittered(0.02)) as spare,
    ):
        path = job(workdir, at(first, "first"), at(spare, "spare", fallback=True),
                   task="chat-completion")
        told = balanced(textmill("run", path, "--json"))
        assert told["ok"] == 600
        shares = {name: each["requests"] for name, each in figures(told).items()}
        assert shares["spare"] >= 1  # while it rested
        assert shares["first"] > 300  # and it came back
        assert figures(told)["first"]["errors"] == 2
        paid([first, spare], told)


# --- who is asked ---------------------------------------------------------------------------------


def test_ordered_spills_over_when_the_first_has_no_free_slot_and_only_then(workdir, textmill):
    given(workdir, rows(120))
    with (
        serving(key=KEY, latency=0.02) as first,
        serving(key=KEY, latency=0.02) as second,
    ):
        path = job(workdir, at(first, "first", concurrency=4), at(second, "second", concurrency=2),
                   task="chat-completion")
        told = balanced(textmill("run", path, "--json"))
        asked = figures(told)
        assert asked["first"]["requests"] > asked["second"]["requests"] >= 20
        assert first.bill.totals().max_in_flight == 4
        paid([first, second], told)
        given(workdir, rows(3, more=lambda n: n))
        path = job(workdir, at(first, "a", concurrency=4), at(second, "b", concurrency=2),
                   task="chat-completion")
        told = balanced(textmill("run", path, "--json", "--max-removed", "1"))
        assert [each["requests"] for each in told["endpoints"]] == [3, 0]


def test_cheapest_asks_the_cheapest_that_has_room(workdir, textmill):
    given(workdir, rows(80))
    with serving(key=KEY, latency=0.005) as dear, serving(key=KEY, latency=0.005) as cheap:
        path = job(workdir, at(dear, "dear", price={"request": 0.02}),
                   at(cheap, "cheap", price={"request": 0.01}, concurrency=8),
                   task="chat-completion", route="cheapest")
        told = balanced(textmill("run", path, "--json"))
        asked = figures(told)
        assert asked["cheap"]["requests"] >= 50
        assert told["cost_usd"] == pytest.approx(
            0.02 * asked["dear"]["requests"] + 0.01 * asked["cheap"]["requests"])
        paid([dear, cheap], told)


def test_fastest_finds_out_who_is_fast(workdir, textmill):
    given(workdir, rows(150))
    with serving(key=KEY, latency=0.08) as slow, serving(key=KEY, latency=0.002) as fast:
        path = job(workdir, at(slow, "slow"), at(fast, "fast", concurrency=4),
                   task="chat-completion", route="fastest")
        told = balanced(textmill("run", path, "--json"))
        assert figures(told)["fast"]["requests"] >= 110
        paid([slow, fast], told)


@pytest.mark.parametrize(("weights", "shares"), [((3, 1), (90, 30)), ((1, 1), (60, 60))])
def test_weighted_shares_hold_within_two_calls(workdir, textmill, weights, shares):
    given(workdir, rows(120))
    with serving(key=KEY, latency=0.004) as one, serving(key=KEY) as two:
        # With enough slots none holds the other up, also on a busy machine.
        path = job(workdir, at(one, "one", weight=weights[0], concurrency=8),
                   at(two, "two", weight=weights[1]),
                   task="chat-completion", route="weighted")
        told = balanced(textmill("run", path, "--json"))
        assert [each["requests"] for each in told["endpoints"]] == [
            pytest.approx(share, abs=2) for share in shares]
        paid([one, two], told)


def test_replicas_share_the_load_and_the_answers(workdir, textmill, monkeypatch):
    given(workdir, rows(200))
    with serving(key=KEY, latency=0.01) as one, serving(key=KEY, latency=0.01) as two:
        alone = at(one, "one", model="m", batch_size=4)
        other = at(two, "two", model="m", batch_size=4, replica_of="one")
        path = job(workdir, alone, other)
        told = balanced(textmill("run", path, "--json"))
        assert min(each["requests"] for each in told["endpoints"]) >= 40
        paid([one, two], told)
        assert one.bill.totals().inputs + two.bill.totals().inputs == 200
        before = (workdir / "out.parquet").read_bytes()
        assert balanced(textmill("run", job(workdir, alone), "--json"))["calls"] == 0
        assert (workdir / "out.parquet").read_bytes() == before
        two.play("503")  # one of them is away: the other does all of it
        (workdir / "out.parquet").unlink()
        shutil.rmtree(workdir / "out.parquet.run")
        monkeypatch.setenv("TEXTMILL_HOME", str(workdir / "fresh"))
        told = balanced(textmill("run", job(workdir, alone, other), "--json"))
        assert [each["requests"] for each in told["endpoints"]] == [200, 0]
        assert (workdir / "out.parquet").read_bytes() == before


def test_a_replica_that_runs_another_model_stops_the_run_and_none_of_its_answers_is_kept(
    workdir, textmill
):
    given(workdir, rows(100))
    with serving(key=KEY, models=["m-1"]) as one, serving(key=KEY, models=["m-2"]) as two:
        tei = {"kind": "tei", "model": None}
        path = job(workdir, at(one, "one", **tei) | {"url": one.url},
                   at(two, "two", replica_of="one", **tei) | {"url": two.url})
        ran = textmill("run", path, "--json")
        balanced(ran, code=14)
        assert "endpoint `two`: its server runs `m-2`, not what `one` serves" in ran.err
        assert two.bill.totals().calls == 0


def test_fault_89_two_embedding_models_in_one_job_are_refused(workdir, textmill):
    given(workdir, rows(3))
    with serving(key=KEY) as mock:
        path = job(workdir, at(mock, "one", model="m"), at(mock, "two", model="n", fallback=True))
        ran = textmill("run", path)
        assert ran.code == 2
        assert "all vectors of an output must come from one model" in ran.err
        assert mock.bill.totals().calls == 0


# --- any mixture of faults ------------------------------------------------------------------------

TROUBLE = ["500 20%", "429 10% retry-after:0", "503 after=30 x2", "reset 5%", "html 5%",
           "400 match='<11>'", "half_body 5%", "loading seconds=0.01 x2", "empty_text 5%"]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_goes_wrong_every_row_is_accounted_for_and_private_rows_stay(
    workdir, textmill, monkeypatch, seed
):
    rng = random.Random(seed)
    given(workdir, rows(90, private=lambda n: n % 3 == 0))
    scripts = [rng.sample(TROUBLE, 4) for _ in range(3)]
    with (
        serving(scripts[0], key=KEY, seed=seed, record=True) as a,
        serving(scripts[1], key=KEY, seed=seed) as b,
        serving(scripts[2], key=KEY, seed=seed, record=True) as c,
    ):
        path = job(workdir, at(a, "a"), at(b, "b"), at(c, "c", fallback=True),
                   task="chat-completion", route=rng.choice(["ordered", "fastest", "weighted"]),
                   rules=[{"column": "private", "equals": True, "endpoints": ["b"]}])
        ran = textmill("run", path, "--json", "--max-outage", "30")
        told = balanced(ran, code=3 if ran.code == 3 else 0)
        assert told["documents"] == 90 and told["failed"] <= 9
        outside = b"".join(each.body for mock in (a, c) for each in mock.bill.recorded)
        for n in range(0, 90, 3):
            assert f"<{n}>".encode() not in outside
        for mock, each in zip((a, b, c), told["endpoints"], strict=True):
            assert mock.bill.totals().calls == each["calls"]
            mock.play()
        assert balanced(textmill("run", path, "--json"))["ok"] == 90
