"""The commands as a table: each is where it is said to be, and imports little before it runs."""

import re
import subprocess
import sys
from importlib import import_module

import click
import pytest

from jobs.cli.shell import command
from jobs.commands import COMMANDS, cli
from pipeline.errors import OutageError
from tests.support import ROOT

HEAVY = ("numpy", "pyarrow", "aiohttp", "diskcache", "tiktoken", "asyncio")


def loaded(*arguments, of=HEAVY):
    """Which of these modules a command has imported when it ends."""
    code = f"""
import sys
from jobs.commands import cli
try:
    cli.main({list(arguments)!r}, prog_name="textmill")
except SystemExit as ended:
    assert not ended.code, ended.code
print(*(name for name in {tuple(of)!r} if name in sys.modules), file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr.split()


def test_help_imports_nothing_but_click():
    modules = ("msgspec", "jobs.cli", "jobs.spec", "pipeline", "chunkers", "rich", *HEAVY)
    assert loaded("--help", of=modules) == []


@pytest.mark.parametrize("arguments", [
    *([name, "--help"] for name in COMMANDS),
    ["cache", "verify", "--help"],
    ["schedule", "add", "--help"],
    ["status"],
    ["status", "--json"],
    ["report"],
    ["report", "--json"],
    ["schedule", "list"],
    ["schedule", "next"],
    ["templates"],
    ["templates", "embed"],
], ids=" ".join)  # fmt: skip
def test_what_reads_no_rows_imports_nothing_heavy(arguments):
    assert loaded(*arguments) == []


def test_a_heavy_module_would_be_seen():
    assert "diskcache" in loaded("plan", "embed", "-i", "sample_data/questions.jsonl",
                                 "--set", "input.text=question")  # fmt: skip


def test_status_of_a_home_with_runs_imports_nothing_heavy(textmill, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "o.jsonl"
    ran = textmill("run", "embed", "-i", "sample_data/reports.jsonl", "--id", "id", "-o", out, "--set",
               "guard.max_chunks=1")  # fmt: skip
    assert ran.code == 4
    for arguments in (["status"], ["report", "--json"], ["status", "--json"]):
        assert loaded(*arguments) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_where_the_table_says_and_says_of_itself_what_the_table_says(name):
    (module, _, attribute), about = COMMANDS[name][0].partition(":"), COMMANDS[name][1]
    context = click.Context(cli)
    found = cli.get_command(context, name)
    assert found is getattr(import_module(f"jobs.{module}"), attribute)
    assert (found.name, found.get_short_help_str(1_000)) == (name, about)
    assert cli.commands[name].get_short_help_str(1_000) == about


def test_the_table_names_every_command_that_there_is():
    files = {path.stem for path in (ROOT / "jobs" / "cli").glob("*.py")}
    found = {
        made
        for file in files - {"__init__"}
        for made in vars(import_module(f"jobs.cli.{file}")).values()
        if isinstance(made, click.Command)
    }
    in_groups = {each for one in found if isinstance(one, click.Group) for each in one.commands.values()}
    assert {one.name for one in found - in_groups} == set(COMMANDS) == set(cli.commands)


def test_a_command_that_does_not_exist_is_answered_with_the_one_that_was_meant(textmill):
    ran = textmill("staus")
    assert ran.code == 2
    assert "status" in ran.err


@command(ends_in_json=True)
@click.argument("error")
def failing(error, as_json):
    if error == "none":
        return 3
    raise OutageError("it is away", hint="wait") if error == "ours" else ValueError("a bug")


@command(has_json=False)
def quiet():
    raise OutageError("it is away")


@pytest.mark.parametrize(("made", "arguments", "code", "out", "err"), [
    (failing, ["none"], 3, "", ""),
    (failing, ["none", "--json"], 3, "", ""),
    (failing, ["ours"], 5, "", "it is away\nhint: wait\n"),
    (failing, ["ours", "--json"], 5, '{"exit":5,"class":"outage","resumable":true', "it is away"),
    (failing, ["bug"], 1, "", "Traceback"),
    (failing, ["bug", "--json"], 1, '{"exit":1,"class":"internal","resumable":true', "ValueError"),
    (quiet, [], 5, "", "it is away\n"),
    (quiet, ["--json"], 2, "", "Usage"),
])  # fmt: skip
def test_a_command_exits_with_its_code_and_reports_its_errors(made, arguments, code, out, err, capsys):
    with pytest.raises(SystemExit) as ended:
        made.main(arguments, prog_name="x")
    shown = capsys.readouterr()
    assert ended.value.code == code
    assert shown.out.startswith(out) and bool(shown.out) == bool(out)
    assert err in shown.err and bool(shown.err) == bool(err)


FIRST_WORDS = {
    "Add", "Age", "Aggregation", "Allow", "Answers", "Base", "Check", "Chunking", "Column",
    "Count", "Delay", "Dimension", "Engine", "Estimate", "Exit", "Explain", "Export", "Fail",
    "Fault", "Find", "Follow", "Forget", "Host", "Id", "Import", "Inject", "Input", "Job", "Largest",
    "Latency", "List", "Longest", "Maximum", "Model", "Name", "Number", "Output", "Port",
    "Print", "Prompt", "Protocol", "Rate", "Record", "Refuse", "Remove", "Report", "Resume",
    "Retry", "Run", "Schedule", "Seed", "Serve", "Set", "Show", "Stop", "Task", "Templates",
    "Time", "Tokenizer", "Tokens", "Use", "Verify", "Write",
}  # fmt: skip
"""Imperatives, nouns, and adjectives before a noun. A new help text adds its first word here."""


def commands_with_help():
    context = click.Context(cli)
    for name in cli.list_commands(context):
        found = cli.get_command(context, name)
        yield name, found
        if isinstance(found, click.Group):
            yield from ((f"{name} {its}", inner) for its, inner in found.commands.items())


@pytest.mark.parametrize(("name", "shown"), [*commands_with_help()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_sentence_of_help_begins_with_an_imperative_or_a_noun(name, shown):
    texts = {name: shown.help} | {o.opts[-1]: o.help for o in shown.params if isinstance(o, click.Option)}
    for place, text in texts.items():
        assert text and text.endswith("."), place
        for sentence in re.split(r"(?<=\.)\s+", text.strip()):
            assert sentence.split()[0].strip(",;:.") in FIRST_WORDS, (place, sentence)


def test_help_would_be_refused_for_a_fragment():
    assert not {"Of", "Not", "Such", "As", "What", "Up", "Any", "Behind"} & FIRST_WORDS


def test_no_summary_is_cut_in_the_list_of_commands():
    context = click.Context(cli, info_name="textmill", terminal_width=80)
    assert "..." not in cli.get_help(context).partition("Commands:")[2]
