"""The table of kinds: every row is complete, and reading it loads nothing."""

import inspect
import subprocess
import sys

import pytest

from aggregators import AGGREGATORS
from chunkers.tokens.tokenizers import tokenizer
from pipeline.endpoints.kinds import KINDS, EmbeddedModel, WireProtocol
from pipeline.tasks import TASKS
from tests.support import ROOT


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", KINDS)
def test_the_file_of_a_kind_has_the_functions_of_its_protocol(name):
    kind = KINDS[name]
    if kind.is_embedded:
        made, expected, functions = kind.embedded_model(), EmbeddedModel, ["answerer"]
    else:
        made, expected, functions = kind.protocol(), WireProtocol, ["encode", "decode"]
    for function in functions:
        assert parameters(getattr(made, function)) == parameters(getattr(expected, function))


@pytest.mark.parametrize("name", KINDS)
def test_the_facts_of_a_kind_agree(name):
    kind = KINDS[name]
    assert kind.tasks
    assert set(kind.tasks) <= set(TASKS)
    assert set(kind.default_parameters) <= set(kind.tasks)
    if kind.models:
        assert set(kind.models) == set(kind.tasks)
        assert not kind.needs_model
    if kind.is_embedded:
        assert kind.url is None
        assert not (kind.providers or kind.names_itself)
    if kind.tokenizer:
        assert tokenizer(kind.tokenizer).count("one") > 0


@pytest.mark.parametrize("name", TASKS)
def test_the_facts_of_a_task_agree(name):
    task = TASKS[name]
    assert task.default_aggregate in task.aggregates
    assert set(task.aggregates) <= set(AGGREGATORS)
    assert task.accepts_prompt or not task.needs_prompt
    assert any(name in kind.tasks for kind in KINDS.values())
    for aggregate in task.aggregates:
        assert AGGREGATORS[aggregate](task.column).columns == (task.column,)


def test_reading_the_table_loads_no_protocol_no_client_and_no_numbers():
    code = """if True:
        import sys
        import jobs.spec.job
        rooms = {name for name in sys.modules if name.startswith("pipeline.endpoints.")}
        heavy = {"numpy", "aiohttp", "wordllama", "pyarrow"} & set(sys.modules)
        print(sorted(rooms), sorted(heavy))
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "['pipeline.endpoints.kinds'] []\n"


def test_wiring_a_job_does_not_load_the_embedded_model():
    code = """if True:
        import sys
        from jobs.build import build
        from jobs.spec.load import load
        paths = {"input.path": "in.jsonl", "output.path": "out.parquet"}
        made = build(load("embed", flags=paths))
        print(made.dimension, made.endpoints[0].identity, made.endpoints[0].is_adaptive)
        print("pipeline.endpoints.local" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == "256 ('local', 'wordllama-256') False\nFalse\n"
