"""Facts instead of comparisons: the names of kinds and tasks are in two tables, and no other file of
the program knows one."""

import ast

import pytest

from pipeline.endpoints.kinds import KINDS
from pipeline.tasks import TASKS
from tests.support import ROOT

PACKAGES = ("pipeline", "chunkers", "aggregators", "jobs")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TABLES = {"pipeline/endpoints/kinds.py", "pipeline/tasks.py"}
OTHER_SIDE = "mock"
"""jobs/mock/ and the command of this name are the other side of the wire: what they call `tei` is a
server that they imitate. The only exception."""


def names_in(source):
    """Every string of the source that is the name of a kind or a task, with its line."""
    found, waiting = [], [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or (isinstance(node, ast.FunctionDef) and node.name == OTHER_SIDE):
            continue
        if isinstance(node, ast.Constant) and node.value in (*KINDS, *TASKS):
            found.append((node.lineno, node.value))
        waiting += ast.iter_child_nodes(node)
    return sorted(found)


def own_names(place):
    """The names that a file may hold: a kind's protocol its own, and those of tasks."""
    module = place.removesuffix(".py").replace("/", ".")
    kinds = {name for name, kind in KINDS.items() if kind.module == module}
    return kinds | set(TASKS) if kinds else kinds


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_but_the_tables_names_a_kind_or_a_task(path):
    place = path.relative_to(ROOT).as_posix()
    if place in TABLES or place.startswith(f"jobs/{OTHER_SIDE}/"):
        return
    named = [(line, name) for line, name in names_in(path.read_text("utf-8"))
             if name not in own_names(place)]  # fmt: skip
    assert not named, f"{place}: read a fact of KINDS or TASKS instead"


@pytest.mark.parametrize(("source", "names"), [
    ('kind == "local"', ["local"]),
    ('task != "feature-extraction" or kind in ("tei", "hf")', ["feature-extraction", "hf", "tei"]),
    ('FIELDS = {"summarization": "summary_text"}', ["summarization"]),
    ('kind: Literal["local", "openai"]', ["local", "openai"]),
    ('match kind:\n    case "tei":\n        pass', ["tei"]),
    ('def f(kind="hf"):\n    return f"{kind}/pipeline/summarization"', ["hf"]),
    ('def f():\n    "local"', []),
    ('@option(default="tei")\ndef mock():\n    return "hf"', []),
    ('hint = "--kind openai, hf or tei"', []),
])  # fmt: skip
def test_a_name_is_found_wherever_it_is_written(source, names):
    assert sorted(name for _, name in names_in(source)) == names
