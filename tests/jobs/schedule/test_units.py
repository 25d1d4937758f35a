"""What a schedule writes, byte by byte; systemd's and the shell's own readers have the last word."""

import os
import shlex
import shutil
import subprocess
import sys
from datetime import datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from jobs.schedule import units
from jobs.schedule.units import (
    Schedule,
    crontab_line,
    next_time,
    read_at,
    read_delay,
    schedules_of,
    service,
    timer,
    unit_name,
    with_schedule,
    without_schedule,
)
from pipeline.errors import UsageError
from tests.support import require


def made(**changed):
    given = {"name": "nightly", "job": "/srv/jobs/nightly.toml", "at": "02:00", "program": ("/opt/mill/bin/textmill",),
             "home": "/home/ada/.local/share/textmill", "delay_seconds": 600}
    return Schedule(**given | changed)


AWKWARD = made(
    name="夜间-报告",
    job='/srv/50% of "Ada\'s" $HOME \\jobs\n/报告 2.toml',
    program=("/opt/my mill/$bin 100%/textmill",),
    home="/home/ada l/$x %h",
    environment="/home/ada l/100%/env",
)


def test_the_timer():
    assert timer(made()).split("\n", 1)[1] == """\
[Unit]
Description=textmill nightly at 02:00

[Timer]
OnCalendar=*-*-* 02:00:00
RandomizedDelaySec=600
Persistent=true

[Install]
WantedBy=timers.target
"""


def test_the_service():
    assert service(made(environment="/home/ada/.config/textmill/env", grace_seconds=45.5)) == """\
[Unit]
Description=textmill nightly
StartLimitIntervalSec=43200
StartLimitBurst=6

[Service]
Type=exec
ExecStart="/opt/mill/bin/textmill" "run" "/srv/jobs/nightly.toml"
Environment="TEXTMILL_HOME=/home/ada/.local/share/textmill"
EnvironmentFile=-/home/ada/.config/textmill/env
TimeoutStopSec=106
SuccessExitStatus=3 143
Restart=no
RestartForceExitStatus=5
RestartSec=900
"""


def test_awkward_paths_in_a_service():
    lines = service(AWKWARD).splitlines()
    assert lines[1] == "Description=textmill 夜间-报告"
    assert lines[7:10] == [
        'ExecStart="/opt/my mill/$bin 100%%/textmill" "run" '
        '"/srv/50%% of \\"Ada\'s\\" $$HOME \\\\jobs\\x0a/报告 2.toml"',
        'Environment="TEXTMILL_HOME=/home/ada l/$x %%h"',
        "EnvironmentFile=-/home/ada l/100%%/env",
    ]


def test_the_line_of_a_crontab():
    assert crontab_line(made(delay_seconds=0)) == (
        "0 2 * * * for n in 1 2 3 4 5 6; do TEXTMILL_HOME=/home/ada/.local/share/textmill "
        "/opt/mill/bin/textmill run /srv/jobs/nightly.toml; [ $? -eq 5 ] || break; sleep 900; done "
        ">/home/ada/.local/share/textmill/nightly.log 2>&1"
    )


def test_awkward_paths_in_a_crontab():
    line = crontab_line(made(job="/srv/50% Ada's $x/报告.toml", environment="/a b/env", delay_seconds=0, at="23:59"))
    assert line == (
        "59 23 * * * [ ! -r '/a b/env' ] || { set -a; . '/a b/env'; set +a; }; "
        "for n in 1 2 3 4 5 6; do TEXTMILL_HOME=/home/ada/.local/share/textmill "
        "/opt/mill/bin/textmill run '/srv/50\\% Ada'\"'\"'s $x/报告.toml'; "
        "[ $? -eq 5 ] || break; sleep 900; done >/home/ada/.local/share/textmill/nightly.log 2>&1"
    )


@pytest.mark.parametrize("job", ["/a\nb.toml", "/a\\b.toml", "/a\x1bb.toml", "/" + "x" * 1_000])
def test_a_crontab_refuses_what_it_cannot_hold(job):
    with pytest.raises(UsageError):
        crontab_line(made(job=job))


def test_a_random_delay_is_the_schedules_own_minute_and_stays_within_it():
    seen = set()
    for number in range(200):
        minute, hour, *_ = crontab_line(made(job=f"/srv/{number}.toml", at="23:55")).split()
        at = (int(hour) * 60 + int(minute) - (23 * 60 + 55)) % 1440
        assert 0 <= at <= 10
        seen.add(at)
        assert crontab_line(made(job=f"/srv/{number}.toml", at="23:55")).startswith(f"{minute} {hour} ")
    assert len(seen) == 11


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("cron")



@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0\\", exclude_categories=["C", "Z"]) | st.sampled_from(" '\"$`%;&|<>*~#!"),
               min_size=1, max_size=40))
def test_the_shell_reads_a_crontabs_line_as_it_was_meant(workdir, name):
    """cron turns `\\%` into `%`; what sh makes of the rest is what the job's name was."""
    home, script = workdir / "home", workdir / "show"
    home.mkdir(exist_ok=True)
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$2" "$TEXTMILL_HOME"\n')
    script.chmod(0o755)
    schedule = made(job=f"/x/{name}.toml", program=(str(script),), home=str(home))
    command = crontab_line(schedule).split(" ", 5)[5].replace("\\%", "%")
    subprocess.run(["sh", "-c", command], check=True)
    assert (home / "nightly.log").read_text("utf-8") == f"/x/{name}.toml\n{home}\n"


def test_the_crontabs_loop_tries_again_after_exit_5_and_after_no_other(tmp_path):
    script = tmp_path / "textmill"
    script.write_text(f"#!/bin/sh\necho run >>'{tmp_path}/runs'\n[ $(wc -l <'{tmp_path}/runs') -lt 3 ] && exit 5\nexit 3\n")
    script.chmod(0o755)
    line = crontab_line(made(program=(str(script),), home=str(tmp_path)))
    command = line.split(" ", 5)[5].replace("sleep 900", f"echo slept >>'{tmp_path}/slept'")
    subprocess.run(["sh", "-c", command], check=True)
    assert (tmp_path / "runs").read_text() == "run\nrun\nrun\n"
    assert (tmp_path / "slept").read_text() == "slept\nslept\n"


@given(st.text(max_size=200), st.lists(st.sampled_from([made(), AWKWARD, made(name="other", at="03:30")]), max_size=3))
def test_a_crontab_gets_its_own_lines_back_and_no_other_changes(mine, schedules):
    writable = [each for each in schedules if each is not AWKWARD]
    crontab = mine
    for schedule in writable:
        crontab = with_schedule(crontab, schedule)
    assert {each.name for each in schedules_of(crontab)} >= {each.name for each in writable}
    for schedule in writable:
        crontab = without_schedule(crontab, schedule.name)
    assert crontab in (mine, mine + "\n")


def test_a_schedule_written_twice_is_there_once():
    crontab = with_schedule(with_schedule("0 5 * * * backup\n", made()), made(at="03:00", delay_seconds=0))
    first, mark, line, rest = crontab.split("\n")
    assert (first, rest) == ("0 5 * * * backup", "")
    assert mark.startswith("# textmill schedule: {") and line.startswith("0 3 * * * ")


def test_a_line_that_somebody_put_between_mark_and_line_stays():
    mark, line, _ = with_schedule("", made()).split("\n")
    assert without_schedule(f"{mark}\n0 5 * * * backup\n{line}\n", "nightly") == f"0 5 * * * backup\n{line}\n"


@pytest.mark.parametrize("schedule", [made(), AWKWARD, made(name="a", environment="/e", delay_seconds=0)])
def test_a_unit_says_whose_it_is(schedule):
    assert schedules_of(timer(schedule)) == [schedule]
    assert timer(schedule).split("\n")[0].isascii()


@pytest.mark.parametrize(("name", "unit"), [
    ("nightly", "textmill-nightly"),
    ("a-b_c", "textmill-a-b_c"),
    ("报告", "textmill-\\xe6\\x8a\\xa5\\xe5\\x91\\x8a"),
    ("a.b", "textmill-a\\x2eb"),
])
def test_names_of_units(name, unit):
    assert unit_name(name) == unit


def test_a_name_too_long_for_a_unit_is_refused():
    with pytest.raises(UsageError, match="too long"):
        unit_name("报" * 20)


@pytest.mark.parametrize(("typed", "at"), [("2:00", "02:00"), ("02:00", "02:00"), (" 23:59 ", "23:59"), ("0:05", "00:05")])
def test_times_of_day(typed, at):
    assert read_at(typed) == at


@pytest.mark.parametrize("typed", ["24:00", "2", "2:60", "02:00:00", "midnight", "", "٠٢:٠٠", "02:00\n*"])
def test_no_times_of_day(typed):
    with pytest.raises(UsageError, match="--at"):
        read_at(typed)


@pytest.mark.parametrize(("typed", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("10 min", 600), ("1h", 3_600), ("1h 30min", 5_400), ("12h", 43_200)])
def test_delays(typed, seconds):
    assert read_delay(typed) == seconds


@pytest.mark.parametrize("typed", ["13h", "-1", "ten", "1d", "9999999", "", "0.5s", "12h 1s"])
def test_no_delays(typed):
    with pytest.raises(UsageError, match="--random-delay"):
        read_delay(typed)


@given(st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)), st.integers(0, 23), st.integers(0, 59))
def test_the_next_time_is_within_a_day_or_so_and_to_come(moment, hour, minute):
    now = moment.astimezone()
    due = next_time(made(at=f"{hour:02d}:{minute:02d}"), now)
    assert timedelta(0) < due - now <= timedelta(hours=26)


def test_the_next_time():
    now = datetime(2026, 11, 21, 1, 59, 30).astimezone()
    assert next_time(made(), now) - now == timedelta(seconds=30)
    assert next_time(made(), now + timedelta(seconds=30)) - now == timedelta(days=1, seconds=30)


def test_stopping_takes_longer_than_the_grace_and_outages_are_tried_within_a_night():
    assert "TimeoutStopSec=90\n" in service(made(grace_seconds=30))
    assert units.RETRY_SECONDS * units.MAX_STARTS < units.WITHIN_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"environment": "/no such/env"}, {"name": "夜间"},
                                    {"job": AWKWARD.job, "home": AWKWARD.home, "environment": AWKWARD.environment}])
def test_systemd_finds_nothing_to_say_of_the_units(tmp_path, change):
    require(shutil.which("systemd-analyze"), "systemd-analyze", "apt-get install systemd")
    schedule = made(program=(sys.executable, "-m", "jobs"), **change)
    unit = unit_name(schedule.name)
    (tmp_path / f"{unit}.timer").write_text(timer(schedule), "utf-8")
    (tmp_path / f"{unit}.service").write_text(service(schedule), "utf-8")
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    ran = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", f"./{unit}.timer", f"./{unit}.service"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(run), "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_words_of_a_service_are_quoted_one_by_one():
    words = service(made(job="/a b.toml")).splitlines()[7].removeprefix("ExecStart=")
    assert shlex.split(words) == ["/opt/mill/bin/textmill", "run", "/a b.toml"]
