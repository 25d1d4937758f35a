"""The status of a document."""

import hypothesis.strategies as st
from hypothesis import given

from aggregators.account import Account
from pipeline.records import Answer, Chunk, Document, Failure, Outcome, Request, RowRef

SETTLED = st.builds(
    Answer, st.text(max_size=3), truncated=st.booleans(), model=st.sampled_from(["", "m", "n"])
) | st.builds(Failure, st.sampled_from(["poison", "too_long"]), st.sampled_from(["no", "never"]))


def document(error=None):
    text = None if error else "text"
    return Document(b"\0" * 16, "d", text, {}, "in.jsonl:1", 0, RowRef(None, 0), error)


def outcomes(*settled, tokens=3):
    return [Outcome(Request(b"", "", 0, Chunk(n, n + 1, tokens)), one)
            for n, one in enumerate(settled)]


@given(st.lists(SETTLED, max_size=8))
def test_status_is_failed_for_all_partial_for_some_and_ok_for_none(settled):
    account = Account.of(document(), iter(outcomes(*settled)))
    failures = [one for one in settled if isinstance(one, Failure)]
    answers = [one for one in settled if isinstance(one, Answer)]
    assert account.status == (
        "ok" if not failures else "failed" if not answers else "partial"
    )
    assert (account.error is None) == (account.status == "ok")
    assert (account.chunks, account.tokens) == (len(settled), 3 * len(settled))
    assert account.truncated == any(one.truncated for one in answers)
    assert account.model == next((one.model for one in answers if one.model), None)


@given(st.lists(SETTLED, max_size=4))
def test_an_isolated_row_is_failed_with_its_own_error_in_any_case(settled):
    account = Account.of(document("malformed JSON"), outcomes(*settled))
    assert account == Account("failed", "malformed JSON", 0, 0, False, None)


def test_errors_name_the_first_failure_and_how_many_there_are():
    ok, poison, long = Answer("a"), Failure("poison", "no"), Failure("too_long", "9 of 8")
    assert Account.of(document(), outcomes(poison, long)).error == "poison: no"
    assert Account.of(document(), outcomes(ok, long, poison)).error == (
        "2 of 3 chunks failed: too_long: 9 of 8"
    )


def test_a_blank_document_is_ok():
    assert Account.of(document(), []) == Account("ok", None, 0, 0, False, None)


def test_outcomes_are_read_once_and_a_result_carries_the_account():
    read = []
    lazily = (read.append(each) or each for each in outcomes(Answer("a", truncated=True, model="m")))
    result = Account.of(document(), lazily).result(["row"])
    assert len(read) == 1
    assert (result.status, result.rows, result.error, result.chunks, result.tokens,
            result.truncated, result.model) == ("ok", ["row"], None, 1, 3, True, "m")
