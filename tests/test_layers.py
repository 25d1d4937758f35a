"""The one layer rule of docs/design.md, read from the imports of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "chunkers", "aggregators", "jobs")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "chunkers": {"chunkers", "pipeline.records", "pipeline.errors"},
    "aggregators": {"aggregators", "pipeline.records", "pipeline.errors"},
    "jobs": set(PACKAGES),
}
HOMES = {
    "aiohttp": ("pipeline/endpoints/http.py", "jobs/mock/"),
    "diskcache": ("pipeline/cache.py",),
    "tiktoken": ("chunkers/tokens.py",),
    "tokenizers": ("chunkers/tokens.py",),
    "pyarrow": tuple(
        f"pipeline/{name}.py"
        for name in ("source", "parquet", "survey", "schema", "sink", "parts", "partswriter", "publish", "corpus", "memory", "portable", "s3")
    ),
    "click": ("jobs/",),
    "rich": ("jobs/",),
    "wordllama": ("pipeline/endpoints/local.py",),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name, allowed):
    return any(name == each or name.startswith(each + ".") for each in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path):
    place = path.relative_to(ROOT).as_posix()
    package = place.split("/")[0]
    for name in imports(path):
        top = name.split(".")[0]
        if top in PACKAGES and name not in ("pipeline",):
            assert is_within(name, MAY_IMPORT[package]), f"{place} imports {name}"
        if top in HOMES:
            assert place.startswith(HOMES[top]), f"{place} imports {name}, at home in {HOMES[top]}"


def test_nothing_unpickles_or_evaluates():
    banned = {"pickle", "yaml", "marshal", "shelve"}
    for path in FILES:
        assert not banned & {name.split(".")[0] for name in imports(path)}, path
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert not [call for call in calls if call.func.id in ("eval", "exec")], path
