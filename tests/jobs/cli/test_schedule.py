"""The commands of `schedule`, against a systemctl and a crontab that write down what they are told."""

import io
import json
import sys

import click
import pytest

JOB = """\
name = "{name}"
task = "feature-extraction"
[input]
path = "docs.jsonl"
[[endpoint]]
kind = "{kind}"
model = "m"
{more}
[output]
path = "out.parquet"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of its own: a home, an empty PATH, and tools that are added one by one."""
    return Machine(tmp_path, monkeypatch)


class Machine:
    def __init__(self, folder, monkeypatch):
        self.folder, self.bin, self.log = folder, folder / "bin", folder / "log"
        self.bin.mkdir()
        self.table = folder / "crontab.txt"
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("HOME", str(folder / "home"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "home" / "config"))
        monkeypatch.setenv("XDG_DATA_HOME", str(folder / "home" / "data"))
        self.units = folder / "home" / "config" / "systemd" / "user"

    def tool(self, name, script):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\necho \"{name} $*\" >>'{self.log}'\n{script}\n")
        path.chmod(0o755)

    def with_systemd(self, code=0):
        self.tool("systemctl", f"[ \"$2\" = is-active ] && exit 3\nexit {code}")
        return self

    def with_crontab(self):
        self.tool("crontab", f"""case "$1" in
-l) [ -e '{self.table}' ] || {{ echo "no crontab for ada" >&2; exit 1; }}; while IFS= read -r line; do printf '%s\\n' "$line"; done <'{self.table}';;
-) : >'{self.table}'; while IFS= read -r line; do printf '%s\\n' "$line" >>'{self.table}'; done;;
-r) /bin/rm '{self.table}';;
esac""")
        return self

    def job(self, name="nightly", kind="local", more="", folder=""):
        path = self.folder / folder / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        text = JOB.format(name=name, kind=kind, more=more)
        path.write_text(text if kind != "local" else text.replace('model = "m"\n', ""), "utf-8")
        return path

    @property
    def left(self):
        return sorted(str(path.relative_to(self.units)) for path in self.units.rglob("*") if not path.is_dir())


def test_add_list_next_and_remove_by_systemd(machine, textmill, own_home):
    machine.with_systemd()
    job = machine.job()
    ran = textmill("schedule", "add", job, "--at", "2:00", "--yes")
    assert ran.code == 0
    assert "OnCalendar=*-*-* 02:00:00" in ran.out and "RestartForceExitStatus=5" in ran.out
    assert ran.out.splitlines()[-1].startswith("`nightly` is scheduled: daily at 02:00 (within 10 min), next on ")
    assert machine.left == ["textmill-nightly.service", "textmill-nightly.timer",
                            "timers.target.wants/textmill-nightly.timer"]
    wanted = machine.units / "timers.target.wants" / "textmill-nightly.timer"
    assert wanted.samefile(machine.units / "textmill-nightly.timer")
    service = (machine.units / "textmill-nightly.service").read_text("utf-8")
    assert f'"run" "{job}"' in service and f'"TEXTMILL_HOME={own_home}"' in service
    assert "systemctl --user daemon-reload\nsystemctl --user restart textmill-nightly.timer\n" in machine.log.read_text()

    listed = textmill("schedule", "list")
    assert listed.out == f"nightly  02:00 (within 10 min)  {job}  systemd\n"
    log = json.loads(textmill("schedule", "next", "--json").out)
    assert (log["name"], log["job"], log["by"], log["random_delay_seconds"]) == ("nightly", str(job), "systemd", 600)
    assert "  nightly\n" in textmill("schedule", "next").out

    (machine.folder / "home/data/systemd/timers").mkdir(parents=True)
    (machine.folder / "home/data/systemd/timers/stamp-textmill-nightly.timer").touch()
    assert textmill("schedule", "remove", "nightly").out == "`nightly` is removed from systemd\n"
    assert machine.left == []
    assert not list((machine.folder / "home/data/systemd/timers").iterdir())
    assert not (machine.units / "timers.target.wants").exists()
    assert textmill("schedule", "list").out.startswith("no schedules")


def test_adding_twice_changes_nothing_and_another_time_replaces_it(machine, textmill):
    machine.with_systemd()
    job = machine.job()
    assert textmill("schedule", "add", job, "--at", "02:00", "--yes").code == 0
    again = textmill("schedule", "add", job, "--at", "02:00")
    assert again.code == 0 and again.out.startswith("`nightly` is already scheduled: ")
    assert textmill("schedule", "add", job, "--at", "04:30", "--random-delay", "0", "--yes").code == 0
    assert textmill("schedule", "list").out == f"nightly  04:30  {job}  systemd\n"


def test_nothing_is_written_without_a_yes(machine, textmill, monkeypatch):
    machine.with_systemd()
    job = machine.job()
    assert "OnCalendar" in textmill("schedule", "add", job, "--at", "02:00", "--dry-run").out
    ran = textmill("schedule", "add", job, "--at", "02:00")
    assert ran.code == 2 and ran.err.endswith("nothing was written: standard input is closed\nhint: use --yes\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert textmill("schedule", "add", job, "--at", "02:00").code == 130
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert textmill("schedule", "add", job, "--at", "02:00").code == 130

    def interrupted(*_, **__):
        raise click.Abort

    monkeypatch.setattr("click.confirm", interrupted)
    ran = textmill("schedule", "add", job, "--at", "02:00")
    assert (ran.code, ran.err) == (130, "nothing was written\n")
    assert machine.left == []


def test_an_answer_may_come_through_a_pipe(machine, textmill, monkeypatch):
    machine.with_systemd()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert textmill("schedule", "add", machine.job(), "--at", "02:00").code == 0
    assert len(machine.left) == 3


def test_a_crontab_is_used_where_there_is_no_systemd(machine, textmill, own_home):
    machine.with_crontab()
    machine.table.write_text("0 5 * * * backup 100\\%\n")
    job = machine.job()
    ran = textmill("schedule", "add", job, "--at", "02:00", "--random-delay", "0", "--yes")
    assert ran.code == 0
    first, mark, line = machine.table.read_text("utf-8").splitlines()
    assert first == "0 5 * * * backup 100\\%"
    assert line.startswith("0 2 * * * for n in 1 2 3 4 5 6; do TEXTMILL_HOME=")
    assert textmill("schedule", "list").out == f"nightly  02:00  {job}  crontab\n"
    assert textmill("schedule", "add", job, "--at", "02:00", "--random-delay", "0").out.startswith("`nightly` is already scheduled")
    assert textmill("schedule", "remove", "nightly").code == 0
    assert machine.table.read_text("utf-8") == "0 5 * * * backup 100\\%\n"


def test_a_crontab_that_held_nothing_else_goes_with_its_last_schedule(machine, textmill):
    machine.with_crontab()
    textmill("schedule", "add", machine.job(), "--at", "02:00", "--yes", "--crontab")
    assert machine.table.exists()
    textmill("schedule", "remove", "nightly")
    assert not machine.table.exists()


def test_a_machine_with_neither(machine, textmill):
    ran = textmill("schedule", "add", machine.job(), "--at", "02:00", "--yes")
    assert ran.code == 2
    assert ran.err.startswith("this machine has neither systemd nor crontab") and "hint: " in ran.err
    shown = textmill("schedule", "add", machine.job(), "--at", "02:00", "--dry-run")
    assert shown.code == 0 and "RestartForceExitStatus=5" in shown.out
    assert textmill("schedule", "add", machine.job(), "--at", "02:00", "--yes", "--crontab").code == 2


def test_where_systemd_does_not_answer_the_files_are_written_and_one_line_says_how_to_start(machine, textmill):
    machine.with_systemd(code=1)
    ran = textmill("schedule", "add", machine.job(), "--at", "02:00", "--yes")
    assert ran.code == 0
    (line,) = ran.err.splitlines()
    assert line.startswith("systemctl --user does not respond")
    assert "systemctl --user daemon-reload && systemctl --user start 'textmill-nightly.timer'" in line
    assert len(machine.left) == 3


@pytest.mark.parametrize("more", ['api_key = { env = "MILL_KEY" }', 'proxy = { env = "MILL_KEY" }',
                                  'headers = { X-Key = { env = "MILL_KEY" } }'])  # fmt: skip
def test_a_key_by_variable_needs_a_file_and_no_key_is_read_or_written(
    machine, textmill, monkeypatch, more
):
    machine.with_systemd()
    monkeypatch.setenv("MILL_KEY", "canary-secret")
    job = machine.job(kind="openai", more=more)
    ran = textmill("schedule", "add", job, "--at", "02:00", "--yes")
    path = machine.folder / "home" / "config" / "textmill" / "env"
    assert f"EnvironmentFile=-{path}\n" in ran.out
    assert f"the job reads MILL_KEY: put MILL_KEY=... into {path} with mode 0600" in ran.err
    assert not path.exists()
    path.parent.mkdir()
    path.write_text("MILL_KEY=canary-secret\n")
    path.chmod(0o644)
    ran = textmill("schedule", "add", job, "--at", "03:00", "--yes")
    assert f"{path}: others can read it, set mode 0600 with chmod 600" in ran.err and "the job reads" not in ran.err
    for unit in machine.units.glob("textmill-*"):
        assert "canary-secret" not in unit.read_text("utf-8")
    assert "canary-secret" not in ran.out + ran.err


def test_a_job_that_cannot_run_is_not_scheduled(machine, textmill):
    machine.with_systemd()
    job = machine.job()
    job.write_text(job.read_text("utf-8").replace("[input]", "[inputs]"), "utf-8")
    assert textmill("schedule", "add", job, "--at", "02:00", "--yes").code == 2
    missing = textmill("schedule", "add", "embed", "--at", "02:00", "--yes")
    assert (missing.code, missing.err.splitlines()[0]) == (2, "embed: no such job file")
    assert machine.left == []


def test_a_name_belongs_to_one_job_and_one_keeper(machine, textmill):
    machine.with_systemd()
    textmill("schedule", "add", machine.job(), "--at", "02:00", "--yes")
    other = machine.job(folder="other")
    ran = textmill("schedule", "add", other, "--at", "02:00", "--yes")
    assert ran.code == 2 and "hint: use another --name" in ran.err
    assert textmill("schedule", "add", other, "--at", "02:00", "--yes", "--name", "second").code == 0
    machine.with_crontab()
    ran = textmill("schedule", "add", machine.job(), "--at", "02:00", "--yes", "--crontab")
    assert ran.code == 2 and "is already scheduled by systemd" in ran.err
    assert textmill("schedule", "remove", "third").err == "no schedule `third`\nhint: the schedules are nightly, second\n"


def test_a_chinese_name_from_add_to_remove(machine, textmill):
    machine.with_systemd()
    job = machine.job(name="夜间-报告")
    assert textmill("schedule", "add", job, "--at", "02:00", "--yes").code == 0
    assert "textmill-\\xe5\\xa4\\x9c\\xe9\\x97\\xb4-\\xe6\\x8a\\xa5\\xe5\\x91\\x8a.timer" in machine.left
    assert textmill("schedule", "list").out == f"夜间-报告  02:00 (within 10 min)  {job}  systemd\n"
    assert textmill("schedule", "remove", "夜间-报告").code == 0
    assert machine.left == []


@pytest.mark.parametrize("words", [["--at", "25:00"], ["--at", "02:00", "--random-delay", "2d"], ["--at", "02:00", "--name", "../up"]])
def test_words_that_are_no_schedule(machine, textmill, words):
    machine.with_systemd()
    assert textmill("schedule", "add", machine.job(), "--yes", *words).code == 2
    assert machine.left == []
