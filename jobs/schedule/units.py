"""The texts of a schedule: a systemd timer and its service, or lines of a crontab.

Plain functions from a `Schedule` to text, so that tests can check every byte. Paths come from
people, and each of the two languages has its own rules for `%`, quotes and blanks.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from jobs.format import local, parse_duration
from pipeline.errors import UsageError
from pipeline.text import printable

MARK = "# textmill schedule: "
RETRY_SECONDS = 900
MAX_STARTS = 6
"""In half a day: a longer outage is left to a person, or to the next night."""
WITHIN_SECONDS = 43_200
STOP_MARGIN_SECONDS = 60
_AT = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
_LONGEST_DELAY_SECONDS = 43_200
_LONGEST_LINE = 998
"""The longest line that every cron in use reads."""
_LONGEST_UNIT = 200


class Schedule(Struct, frozen=True, kw_only=True):
    """A job and its time of day. Units: seconds; `at` is local time, `HH:MM`."""

    name: str
    job: str
    at: str
    program: tuple[str, ...]
    home: str
    delay_seconds: int = 0
    grace_seconds: float = 30.0
    environment: str = ""
    """The file with the environment variables of the job's credentials."""


def read_at(text: str) -> str:
    """`2:00` as `02:00`. Raises: UsageError."""
    time = _AT.fullmatch(text.strip())
    if not time:
        raise UsageError(
            f"--at = {printable(text, 40)} must be a time of day", hint="such as --at 02:00"
        )
    return f"{int(time[1]):02d}:{time[2]}"


def read_delay(text: str) -> int:
    """The seconds of `10m`. Raises: UsageError."""
    seconds = parse_duration(text, ("", "s", "m", "min", "h"))
    if seconds is None or not 0 <= seconds <= _LONGEST_DELAY_SECONDS or seconds % 1:
        raise UsageError(
            f"--random-delay = {printable(text, 40)} must be between 0 and 12h",
            hint="such as 90s, 10m, 1h",
        )
    return int(seconds)


def unit_name(name: str) -> str:
    """The unit name of a schedule, without `.timer`, as systemd-escape writes it."""
    escaped = "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"_" else f"\\x{byte:02x}"
        for byte in name.encode()
    )
    # A dash means a slash only in path names; here it is a dash.
    escaped = escaped.replace("\\x2d", "-")
    if len(escaped) > _LONGEST_UNIT:
        raise UsageError(
            f"`{printable(name)}`: the name is too long for a systemd unit",
            hint="use a shorter --name",
        )
    return f"textmill-{escaped}"


def timer(schedule: Schedule) -> str:
    """The text of the timer."""
    return f"""{_mark(schedule)}
[Unit]
Description=textmill {schedule.name} at {schedule.at}

[Timer]
OnCalendar=*-*-* {schedule.at}:00
RandomizedDelaySec={schedule.delay_seconds}
Persistent=true

[Install]
WantedBy=timers.target
"""


def service(schedule: Schedule) -> str:
    """The text of the service.

    Type=exec, because systemd before 256 refuses RestartForceExitStatus= for oneshot. Exit 3
    published its output, 143 was stopped by an administrator: neither is a failed unit.
    """
    program, words = schedule.program[0], [*schedule.program[1:], "run", schedule.job]
    if not program.isprintable() or set(program) & set("\"'\\"):
        raise UsageError(
            f"{printable(program)}: systemd cannot start a program with quotes or control "
            "characters in its path"
        )
    environment = ""
    if schedule.environment:
        environment = f"EnvironmentFile=-{_raw(schedule.environment)}\n"
    stop = math.ceil(schedule.grace_seconds) + STOP_MARGIN_SECONDS
    return f"""[Unit]
Description=textmill {schedule.name}
StartLimitIntervalSec={WITHIN_SECONDS}
StartLimitBurst={MAX_STARTS}

[Service]
Type=exec
ExecStart={" ".join(['"' + program.replace("%", "%%") + '"', *map(_argument, words)])}
Environment={_quoted(f"TEXTMILL_HOME={schedule.home}")}
{environment}TimeoutStopSec={stop}
SuccessExitStatus=3 143
Restart=no
RestartForceExitStatus=5
RestartSec={RETRY_SECONDS}
"""


def crontab_line(schedule: Schedule) -> str:
    """The crontab line with the same behaviour as the service.

    cron has no random delay: each machine gets its own fixed minute within the delay.
    Raises: UsageError for a path that a crontab cannot hold.
    """
    hour, minute = map(int, schedule.at.split(":"))
    minutes = (hour * 60 + minute + _own_delay(schedule) // 60) % 1440
    words = [*schedule.program, "run", schedule.job]
    run = " ".join([f"TEXTMILL_HOME={shlex.quote(schedule.home)}", *map(shlex.quote, words)])
    set_environment = ""
    if schedule.environment:
        path = shlex.quote(schedule.environment)
        set_environment = f"[ ! -r {path} ] || {{ set -a; . {path}; set +a; }}; "
    log = shlex.quote(log_path(schedule))
    tries = " ".join(map(str, range(1, MAX_STARTS + 1)))
    command = (
        f"{set_environment}for n in {tries}; do {run}; "
        f"[ $? -eq 5 ] || break; sleep {RETRY_SECONDS}; done >{log} 2>&1"
    )
    if not command.isprintable() or "\\" in command:
        raise UsageError(
            f"{printable(schedule.job)}: a crontab cannot hold a path with a line end, "
            "a control character or a backslash"
        )
    line = f"{minutes % 60} {minutes // 60} * * * {command.replace('%', chr(92) + '%')}"
    if len(line.encode()) > _LONGEST_LINE:
        raise UsageError(
            f"{printable(schedule.job)}: its crontab line would have {len(line.encode()):,} bytes, "
            f"and cron reads at most {_LONGEST_LINE:,}",
            hint="use a shorter path, or a link to it",
        )
    return line


def log_path(schedule: Schedule) -> str:
    """The file with the output of cron runs; under systemd the journal has it."""
    return f"{schedule.home}/{schedule.name}.log"


def with_schedule(crontab: str, schedule: Schedule) -> str:
    """The crontab with this schedule instead of one with the same name; all else unchanged."""
    others = without_schedule(crontab, schedule.name)
    others = others if not others or others.endswith("\n") else others + "\n"
    return f"{others}{_mark(schedule)}\n{crontab_line(schedule)}\n"


def without_schedule(crontab: str, name: str) -> str:
    """The crontab without the two lines of the schedule of this name; all else unchanged."""
    kept: list[str] = []
    is_ours = False
    for line in re.split(r"(?<=\n)", crontab):
        if is_ours and "TEXTMILL_HOME=" in line:  # not a line that was inserted between the two
            is_ours = False
            continue
        schedule = read_mark(line)
        is_ours = schedule is not None and schedule.name == name
        if not is_ours:
            kept.append(line)
    return "".join(kept)


def schedules_of(text: str) -> list[Schedule]:
    """Every schedule that has a mark in a crontab or a unit."""
    return [mark for line in text.splitlines() if (mark := read_mark(line)) is not None]


def read_mark(line: str) -> Schedule | None:
    """The schedule in a comment line; None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        return msgspec.json.decode(line.removeprefix(MARK), type=Schedule)
    except msgspec.MsgspecError:
        return None


def next_time(schedule: Schedule, now: datetime) -> datetime:
    """The next start, without random delay; `now` and the result have a time zone.

    A time of day that a clock change skips is due an hour later by the clock.
    """
    hour, minute = map(int, schedule.at.split(":"))
    today = local(now)
    for day in range(3):
        date = (today + timedelta(days=day)).date()
        due = local(datetime(date.year, date.month, date.day, hour, minute))
        if due > now:
            return due
    raise AssertionError("a day has every time of day")


def _own_delay(schedule: Schedule) -> int:
    """The fixed share of the random delay of this schedule, in seconds."""
    if not schedule.delay_seconds:
        return 0
    seed = hashlib.sha256(f"{schedule.home}\0{schedule.job}".encode()).digest()
    return int.from_bytes(seed[:8], "big") % (schedule.delay_seconds + 1)


def _mark(schedule: Schedule) -> str:
    # Escaped to ASCII: a path can end in a backslash or hold characters that editors change.
    raw = msgspec.json.encode(schedule).decode()
    return MARK + "".join(c if c < "\x7f" else _json_escape(c) for c in raw)


def _json_escape(character: str) -> str:
    pairs = character.encode("utf-16-be")
    return "".join(f"\\u{pairs[at]:02x}{pairs[at + 1]:02x}" for at in range(0, len(pairs), 2))


def _argument(word: str) -> str:
    """A word of ExecStart, in which `$` is no variable and `%` no specifier."""
    return _quoted(word).replace("$", "$$")


def _quoted(word: str) -> str:
    """A word in double quotes, with C escapes."""
    escaped = []
    for character in word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%"):
        if character.isprintable() or ord(character) > 0xFF:
            escaped.append(character)
        else:
            escaped.append("".join(f"\\x{byte:02x}" for byte in character.encode()))
    return '"' + "".join(escaped) + '"'


def _raw(path: str) -> str:
    if not path.isprintable():
        raise UsageError(
            f"{printable(path)}: systemd cannot read a file name with control characters"
        )
    return path.replace("%", "%%")
