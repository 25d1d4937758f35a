"""docs/nightly.md under test: its job file, its commands in their order, and every line they print."""

import re
import shlex

from jobs.cli import schedule
from tests.support import ROOT

PAGE = (ROOT / "docs" / "nightly.md").read_text("utf-8")

CHANGING = [
    (r"\d{8}T\d{6}Z-[0-9a-f]{6}", "RUN"),
    (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \d{4}-\d\d-\d\d", "DAY"),
    (r"(?<!\*-\* )(?<!daily at )(?<!nightly at )(?<!--at )\b\d\d:\d\d\b(?!:)", "TIME"),
    (r"\bin \d+ h \d+ min|\bin [\d.]+ (min \d+ s|s)", "in SOON"),
    (r"(, )[\d.]+ s$", r"\1TOOK"),
    (r" +[\d.]+ s$", " TOOK"),
    (r"no reply for \d+ s", "no reply for SOME TIME"),
]


def story():
    """The page's commands, in order, each with the lines below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for told in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = told.partition("\n")
            found.append((command, output.splitlines()))
    assert len(found) == 9
    return found


def steady(lines):
    return [steady_line(line) for line in lines if line.strip()]


def steady_line(line):
    for pattern, name in CHANGING:
        line = re.sub(pattern, name, line)
    return line


def test_a_night_is_what_the_page_says(tmp_path, monkeypatch, textmill, own_home):
    workdir, home, tools = tmp_path / "mill", tmp_path / "ada", tmp_path / "bin"
    for folder in (workdir, home, tools):
        folder.mkdir()
    samples = (ROOT / "sample_data" / "reports.jsonl").read_text("utf-8").splitlines()[:6]
    cut = '{"id": "en-cut-short", "text": "The night watch'
    (workdir / "reports.jsonl").write_text("\n".join([*samples, cut]) + "\n", "utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (workdir / "nightly.toml").write_text(block, "utf-8")
    (tools / "systemctl").write_text('#!/bin/sh\n[ "$2" != is-active ]\n')
    (tools / "systemctl").chmod(0o755)
    monkeypatch.chdir(workdir)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "nobody-who-lingers")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(schedule, "program", lambda: ("/opt/textmill/bin/textmill",))
    monkeypatch.setattr("jobs.schedule.backends._is_booted", lambda: True)
    names = {str(workdir): "/srv/textmill", str(own_home): "/home/ada/.local/share/textmill", str(home): "/home/ada"}
    for command, lines in story():
        ran = textmill(*shlex.split(command)[1:])
        shown = steady(lines)
        out, err = (steady(said(text, names)) for text in (ran.out, ran.err))
        assert sorted(out + err) == sorted(shown), command
        for stream in (out, err):  # each in its order
            rest = iter(shown)
            assert all(line in rest for line in stream), command


def said(text, names):
    for path, shown in names.items():
        text = text.replace(path, shown)
    return [line for line in text.splitlines() if not re.search(r"; retry \d+ in |documents, ", line)]


def test_the_page_links_from_the_readme():
    assert "docs/nightly.md" in (ROOT / "README.md").read_text("utf-8")
