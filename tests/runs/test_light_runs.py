"""A run in which nothing changed loads nothing that only a call, a chunk or a prompt needs."""

import json
import os
import subprocess
import sys

import pytest

from jobs.mock import serving
from tests.support import ROOT

HEAVY = ["aiohttp", "tiktoken", "tokenizers", "wordllama", "rich"]
RUN = f"""
import sys
from jobs.commands import cli
try:
    cli.main(sys.argv[1:], prog_name="textmill")
except SystemExit as ended:
    print(ended.code or 0, *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
TEI = "BAAI/bge-small-en-v1.5"


def loaded(*arguments):
    """The exit code of a command in a process of its own, and which of these it imported."""
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True,
        check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    code, *names = ran.stderr.splitlines()[-1].split()
    return int(code), names, ran.stderr


@pytest.fixture
def given(tmp_path):
    def write(count):
        rows = [{"id": n, "text": f"Row {n} stood at {n * 7} mm."} for n in range(count)]
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ["-i", path, "--id", "id", "-o", tmp_path / "out.parquet", "--json"]

    return write


def settings(kind, url):
    match kind:
        case "openai":
            return ["embed", "--kind", "openai", "--url", f"{url}/v1", "--model", "m"]
        case "prompt":
            return ["ask", "--url", f"{url}/v1", "--model", "m", "--prompt", "Say: {chunk}"]
        case "tei":
            return ["embed", "--kind", "tei", "--url", url, "--model", TEI]


@pytest.mark.parametrize("kind", ["openai", "prompt", "tei"])
def test_nothing_changed_loads_no_client_and_no_tokenizer(given, kind):
    with serving(models=[TEI]) as mock:
        command = ["run", *settings(kind, mock.url)]
        code, names, err = loaded(*command, *given(3))
        assert (code, names) == (0, ["aiohttp", "tiktoken"]), err
        lookups = mock.bill.totals().lookups
        code, names, err = loaded(*command, *given(3))
        assert (code, names) == (0, []), err
        assert mock.bill.totals().lookups == lookups
        code, names, err = loaded(*command, *given(4))
        assert (code, names) == (0, ["aiohttp", "tiktoken"]), err


def test_what_is_answered_already_is_cut_but_needs_no_client(given, tmp_path):
    with serving() as mock:
        command = ["run", *settings("openai", mock.url)]
        assert loaded(*command, *given(3))[0] == 0
    (tmp_path / "out.parquet").unlink()
    code, names, err = loaded(*command, *given(3), "--set", "aggregate.method=mean")
    assert (code, names) == (0, ["tiktoken"]), err


def test_nothing_changed_loads_no_embedded_model(given):
    pytest.importorskip("wordllama")
    command = ["run", "embed", *given(3)]
    code, names, err = loaded(*command)
    assert (code, names) == (0, ["tokenizers", "wordllama"]), err
    code, names, err = loaded(*command)
    assert (code, names) == (0, []), err
