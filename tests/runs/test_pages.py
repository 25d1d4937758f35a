"""Pages under test: the commands of their console blocks, in order, and every line they print."""

import re
import shlex
import subprocess

import pytest

from tests.support import ROOT

HOME = "/home/ada/.local/share/textmill"

CHANGING = [
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"[\d.,]+ (bytes|kB|MB|GB)", "SIZE"),
    (r"\babout [\d.]+ s$", "about SOON"),
    (r"(, )[\d.]+ s$", r"\1TOOK"),
    (r" +(?=SIZE)", " "),
]


def story(name):
    """The page's commands, in order, each with the lines below it."""
    page = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output.splitlines()


def steady(line):
    for pattern, name in CHANGING:
        line = re.sub(pattern, name, line)
    return line


def matches(shown, printed):
    """Whether a line is as the page shows it; ` …` stands for the end of a long one."""
    start, is_cut, _ = shown.partition(" …")
    return printed.startswith(start) if is_cut else printed == shown


@pytest.mark.parametrize(("name", "count"), [("getting-started", 8), ("caching", 7), ("costs", 3)])
def test_a_page_shows_what_its_commands_print(name, count, tmp_path, monkeypatch, textmill, own_home):
    other_home = tmp_path / "other"
    workdir = tmp_path / "work"
    workdir.mkdir()
    (workdir / "docs.jsonl").write_bytes((ROOT / "sample_data" / "reports.jsonl").read_bytes())
    monkeypatch.chdir(workdir)
    monkeypatch.setenv("COLUMNS", "100")
    commands = list(story(name))
    assert len(commands) == count
    for command, lines in commands:
        elsewhere = command.startswith("TEXTMILL_HOME=")
        monkeypatch.setenv("TEXTMILL_HOME", str(other_home if elsewhere else own_home))
        command = command.removeprefix("TEXTMILL_HOME=/srv/textmill ")
        if not command.startswith("textmill "):
            subprocess.run(command, shell=True, check=True)
            continue
        command, _, into = command.partition(" > ")
        ran = textmill(*shlex.split(command)[1:])
        if into:
            (workdir / into).write_text(ran.out)
            continue
        printed = (ran.err + ran.out).replace(str(own_home), HOME).splitlines()
        printed = [steady(line) for line in printed if not re.search(r"documents, .*calls/s", line)]
        shown = [steady(line) for line in lines]
        if "..." not in shown:
            assert len(shown) == len(printed), (command, printed)
        rest = iter(printed)
        for line in shown:
            assert line == "..." or any(matches(line, each) for each in rest), (line, printed)
