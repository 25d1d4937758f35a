"""The drawing of docs/design.md, read from the imports of every file."""

import ast
import graphlib
from functools import cache

import pytest

from tests.support import ROOT

PACKAGES = ("pipeline", "chunkers", "aggregators", "jobs")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

WORDS = {"addresses", "records", "errors", "events", "text", "secret", "tasks"}
"""Files of `pipeline/` that every room may import; they import only each other."""

LAYERS = {
    "pipeline.disk": set(),
    "pipeline.limits": set(),
    "pipeline.source": {"pipeline.disk"},
    "pipeline.cache": {"pipeline.disk"},
    "pipeline.endpoints.kinds": set(),
    "pipeline.endpoints": {"pipeline.endpoints.kinds", "pipeline.cache", "pipeline.limits"},
    "pipeline.parts": {"pipeline.disk", "pipeline.source"},
    "pipeline.prepare": {"pipeline.source", "pipeline.cache", "pipeline.parts"},
    "pipeline.dispatch": {"pipeline.cache", "pipeline.limits"},
    "pipeline.sink": {"pipeline.disk", "pipeline.source", "pipeline.cache", "pipeline.parts"},
    "pipeline.runs": {
        "pipeline.disk", "pipeline.source", "pipeline.cache", "pipeline.limits",
        "pipeline.endpoints", "pipeline.parts", "pipeline.prepare", "pipeline.dispatch",
        "pipeline.sink",
    },
    "pipeline": {"pipeline.runs"},
    "chunkers.boundaries": set(),
    "chunkers.tokens": {"chunkers.boundaries"},
    "chunkers": {"chunkers.tokens"},
    "aggregators": set(),
    "jobs.format": set(),
    "jobs.home": set(),
    "jobs.stdio": set(),
    "jobs.secrets": set(),
    "jobs.spec": {
        "jobs.format", "jobs.home", "jobs.secrets", "chunkers", "pipeline.source",
        "pipeline.endpoints.kinds",
    },
    "jobs.history": {"jobs.spec", "pipeline.runs"},
    "jobs.display": {"jobs.history", "jobs.stdio"},
    "jobs.build": {"jobs.spec", "chunkers", "aggregators", "pipeline"},
    "jobs.schedule": {"jobs.format", "jobs.home", "pipeline.disk"},
    "jobs.mock": {"jobs.format", "pipeline.endpoints"},
    "jobs.cli": {"jobs.build", "jobs.display", "jobs.schedule", "jobs.mock", "jobs.stdio"},
    "jobs.commands": set(),
    "jobs.__main__": {"jobs.cli", "jobs.commands", "jobs.stdio"},
}  # fmt: skip
"""What each room may import, beside itself, the words, and what those rooms may import.

A room is a folder; `jobs/` is also parted by file. `pipeline` stands for the verbs beside its
rooms: run, loop, plan, explain, search. The table of kinds is a room of one file: the check of a job
file reads it without the client.
"""

HOMES = {
    "aiohttp": ("pipeline/endpoints/http.py", "pipeline/endpoints/network/", "jobs/mock/"),
    "diskcache": ("pipeline/cache/",),
    "huggingface_hub": ("pipeline/source/stores/hub.py",),
    "fcntl": ("pipeline/disk/locks.py",),
    "tiktoken": ("chunkers/tokens/",),
    "tokenizers": ("chunkers/tokens/",),
    "pyarrow": (
        "pipeline/source/", "pipeline/parts/", "pipeline/sink/", "pipeline/cache/portable.py",
        "pipeline/disk/memory.py", "pipeline/search.py",
    ),
    "click": ("jobs/cli/", "jobs/commands.py", "jobs/mock/__init__.py"),
    "rich": ("jobs/display/", "jobs/cli/"),
    "wordllama": ("pipeline/endpoints/local.py",),
}  # fmt: skip
"""Where a library may be imported that is heavy, or of one platform only."""

MAX_FILES, MAX_LINES = 15, 400


def module(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


@cache
def nodes(path):
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"))))


def imports(path):
    """Every module that the file imports, wherever the import stands in it."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def room(name):
    """The longest name of LAYERS that the module's name begins with; its word, or None."""
    parts = name.split(".")
    if parts[0] == "pipeline" and len(parts) == 2 and parts[1] in WORDS:
        return None
    return next(
        (one for n in range(len(parts), 0, -1) if (one := ".".join(parts[:n])) in LAYERS), None
    )


def allowed(name):
    """The room and all that its row reaches."""
    found, left = set(), [name]
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left += LAYERS[one]
    return found


def circles(edges):
    """The circles of a graph, largest first (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            start = stack.index(node)
            circle = stack[start:]
            del stack[start:]
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in edges:
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_imports_only_what_its_room_may(path):
    place, own = path.relative_to(ROOT).as_posix(), room(module(path))
    for name in imports(path):
        top = name.split(".")[0]
        if top in PACKAGES and (other := room(name)):
            assert own, f"{place} is a word and imports {name}"
            assert other in allowed(own), f"{place} imports {name}"
        if top in HOMES:
            assert place.startswith(HOMES[top]), f"{place} imports {name}, at home in {HOMES[top]}"


def test_the_table_names_rooms_that_exist_and_has_no_circle():
    for name in LAYERS:
        folder = ROOT.joinpath(*name.split("."))
        assert folder.is_dir() or folder.with_suffix(".py").is_file(), name
    tuple(graphlib.TopologicalSorter(LAYERS).static_order())


def test_no_files_import_each_other_in_a_circle():
    edges = {
        name: {other for other in imports(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    assert not circles(edges)


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_folders_and_files_stay_small():
    folders = {}
    for path in FILES:
        folders.setdefault(path.parent, []).append(path.name)
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= MAX_LINES, f"{path.relative_to(ROOT)}: {lines} lines"
    for folder, names in folders.items():
        assert len(set(names) - {"__init__.py"}) <= MAX_FILES, folder.relative_to(ROOT)


def test_nothing_unpickles_or_evaluates():
    banned = {"pickle", "yaml", "marshal", "shelve"}
    for path in FILES:
        assert not banned & {name.split(".")[0] for name in imports(path)}, path
        calls = [
            node
            for node in nodes(path)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert not [call for call in calls if call.func.id in ("eval", "exec")], path
