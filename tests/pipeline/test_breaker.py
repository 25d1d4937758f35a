from pipeline.breaker import Breaker, answered, probe_ended, rest, took, wait


def test_an_open_endpoint_may_be_called_at_once():
    assert wait(took(Breaker()), now=5.0) == 0.0


def test_after_a_rest_one_call_goes_alone_until_it_is_answered():
    state = rest(Breaker(), now=10.0, started=9.0, seconds=2.0)
    assert wait(state, now=10.5) == 1.5
    assert wait(state, now=12.0) == 0.0
    state = took(state)
    assert wait(state, now=12.0) == float("inf")
    assert wait(answered(state, started=12.0), now=12.1) == 0.0


def test_calls_from_before_the_rest_neither_lengthen_the_streak_nor_end_it():
    state = rest(Breaker(), now=10.0, started=9.0, seconds=2.0)
    late = rest(state, now=10.1, started=9.5, seconds=5.0)
    assert (late.streak, late.until) == (1, 15.1)
    assert answered(late, started=9.5) == late


def test_a_probe_that_fails_makes_the_streak_longer():
    state = took(rest(Breaker(), now=10.0, started=9.0, seconds=2.0))
    state = rest(state, now=13.0, started=12.0, seconds=4.0)
    assert (state.streak, state.is_probing, wait(state, 13.0)) == (2, False, 4.0)


def test_a_probe_that_is_poison_lets_another_one_go():
    state = took(rest(Breaker(), now=10.0, started=9.0, seconds=2.0))
    assert wait(probe_ended(state), now=12.0) == 0.0
