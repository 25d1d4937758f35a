"""The table of errors: the meaning of each class, and that no other file decides it."""

import ast
from typing import get_args

import pytest

from jobs.cli.run import CLASSES as RETRY_FAILED
from pipeline.errors import CLASSES, CLOSING, ERRORS, ErrorFacts, ErrorKind, TextmillError
from tests.support import ROOT
from tests.test_layers import FILES

OWN_WORDS = (
    "pipeline/errors.py",
    # A decode finds out of which class an error is.
    "pipeline/endpoints/responses.py", "pipeline/endpoints/refusals.py", "pipeline/endpoints/hf.py", "pipeline/endpoints/openai.py",
    "pipeline/endpoints/tei.py",
    "jobs/mock/",  # a server has faults of its own, and knows nothing of what they mean
)  # fmt: skip
KINDS = set(get_args(ErrorKind))


def test_every_class_has_its_row():
    assert ERRORS.keys() == KINDS


@pytest.mark.parametrize("kind", ERRORS)
def test_one_is_at_fault_the_endpoint_the_job_or_the_request(kind):
    facts = ERRORS[kind]
    at_fault = [facts.is_endpoints_fault, facts.stops_with is not None, facts.is_requests_own]
    assert at_fault.count(True) == 1
    if facts.is_pausing:  # a request that waits for ever must be an outage in the end
        assert facts.is_endpoints_fault
    if facts.stops_with is not None:
        assert facts.hint


def test_the_classes_that_a_failure_can_be_tried_again_by():
    assert RETRY_FAILED == ("all", "ambiguous", "invalid", "poison", "too_long", "transient", "truncated")


def test_every_exit_code_has_one_class():
    assert CLASSES == {
        0: "complete", 1: "internal", 2: "usage", 3: "failed rows", 4: "too many failed", 5: "outage",
        6: "input", 7: "refused", 8: "budget", 10: "time limit", 11: "locked", 12: "state",
        13: "storage", 14: "guard", 130: "interrupted", 143: "interrupted",
    }  # fmt: skip
    assert {2, 4, 6, 14} == CLOSING
    codes = [error.exit_code for error in TextmillError.__subclasses__()]
    assert len(codes) == len(set(codes))


def test_every_class_is_in_the_table_of_the_page_on_errors():
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    rows = page.split("## Error classes")[1].splitlines()
    named = {name for row in rows for name in row.split("|")[1:2] for name in name.split(",")}
    assert {name.strip(" `") for name in named} >= KINDS


def named(node):
    """The classes of errors that an expression names, as a literal or inside one."""
    match node:
        case ast.Constant(value=str(name)) if name in KINDS:
            return {name}
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return set().union(*map(named, parts))
        case ast.Dict(keys=parts):
            return set().union(*map(named, parts))
        case ast.Call(args=parts):  # frozenset({...})
            return set().union(*map(named, parts)) if len(parts) == 1 else set()
        case ast.MatchOr(patterns=parts):
            return set().union(*map(named, parts))
        case ast.MatchValue(value=value):
            return named(value)
    return set()


def judgements(source):
    """Lines that compare a value with a class of error, or define a table or set of classes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare(left=left, comparators=others):
                if any(map(named, [left, *others])):
                    yield node.lineno
            case ast.match_case(pattern=pattern):
                if named(pattern):
                    yield pattern.lineno
            case ast.Dict() | ast.Set() | ast.List() | ast.Tuple():
                if len(named(node)) > 1:
                    yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_file_decides_what_a_class_of_error_means(path):
    if not path.relative_to(ROOT).as_posix().startswith(OWN_WORDS):
        assert not list(judgements(path.read_text("utf-8")))


@pytest.mark.parametrize(("source", "is_one"), [
    ('error.kind == "rate"', True),
    ('"rate" != error.kind', True),
    ('kind in ("transient", "ambiguous")', True),
    ('kind not in frozenset({"poison"})', True),
    ('match kind:\n    case "auth" | "quota":\n        pass', True),
    ('OWN = {"poison", "invalid"}', True),
    ('SECONDS = {"rate": 1.0, "overload": 1.0}', True),
    ('EndpointError("rate", "429", status=429)', False),
    ('Failure("poison", "no")', False),
    ('table in ("notify", "policy")', False),
    ('TABLES = ["notify", "quota", "policy"]', False),
    ("error.facts.is_pausing", False),
])  # fmt: skip
def test_a_judgement_is_detected(source, is_one):
    assert bool(list(judgements(source))) is is_one


def test_a_row_without_facts_is_a_failure_of_its_request_at_once():
    facts = ErrorFacts()
    assert (facts.is_requests_own, facts.attempts, facts.may_be_billed) == (True, 1, False)
