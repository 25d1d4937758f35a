"""What a schedule writes: a systemd timer and its service, or lines of a crontab.

Plain functions from a `Schedule` to text, so that every byte of it can be read in a test. Paths
come from people: each of the two languages has its own way to ruin a `%`, a quote or a blank.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from jobs.format import parse_duration
from pipeline.errors import UsageError
from pipeline.text import printable

MARK = "# textmill schedule: "
TRY_AGAIN_SECONDS = 900
MAX_STARTS = 6
"""In half a day: an outage that lasts longer is for a person, or for the next night."""
WITHIN_SECONDS = 43_200
STOP_MARGIN_SECONDS = 60
_AT = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
_LONGEST_DELAY_SECONDS = 43_200
_LONGEST_LINE = 998
"""What cron reads of a line, at the least of those in use."""
_LONGEST_UNIT = 200


class Schedule(Struct, frozen=True, kw_only=True):
    """A job and when it runs. Units: seconds; `at` is local time, `HH:MM`."""

    name: str
    job: str
    at: str
    program: tuple[str, ...]
    home: str
    delay_seconds: int = 0
    grace_seconds: float = 30.0
    environment: str = ""
    """The file that holds the variables which the job reads its credentials from."""


def read_at(text: str) -> str:
    """`2:00` as `02:00`. Raises: UsageError."""
    found = _AT.fullmatch(text.strip())
    if not found:
        raise UsageError(
            f"--at = {printable(text, 40)} must be a time of day", hint="such as --at 02:00"
        )
    return f"{int(found[1]):02d}:{found[2]}"


def read_delay(text: str) -> int:
    """`10m` in seconds. Raises: UsageError."""
    seconds = parse_duration(text, ("", "s", "m", "min", "h"))
    if seconds is None or not 0 <= seconds <= _LONGEST_DELAY_SECONDS or seconds % 1:
        raise UsageError(
            f"--random-delay = {printable(text, 40)} must be between 0 and 12h",
            hint="such as 90s, 10m, 1h",
        )
    return int(seconds)


def unit_name(name: str) -> str:
    """What the units of a schedule are called, without `.timer`; as systemd-escape writes it."""
    escaped = "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"_" else f"\\x{byte:02x}"
        for byte in name.encode()
    )
    # A dash stands for a slash in names of paths only; here it is a dash.
    escaped = escaped.replace("\\x2d", "-")
    if len(escaped) > _LONGEST_UNIT:
        raise UsageError(
            f"`{printable(name)}`: too long for the name of a unit", hint="give a shorter --name"
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
    published its output, 143 was stopped by whoever runs the machine: neither is a failed unit.
    """
    program, words = schedule.program[0], [*schedule.program[1:], "run", schedule.job]
    if not program.isprintable() or set(program) & set("\"'\\"):
        raise UsageError(
            f"{printable(program)}: systemd starts no program with quotes or controls in its path"
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
RestartSec={TRY_AGAIN_SECONDS}
"""


def crontab_line(schedule: Schedule) -> str:
    """One line that does what the service does, in the language of cron and sh.

    cron has no random delay: each machine gets its own minute within it, always the same.
    Raises: UsageError for what a crontab cannot hold.
    """
    hour, minute = map(int, schedule.at.split(":"))
    minutes = (hour * 60 + minute + _own_delay(schedule) // 60) % 1440
    words = [*schedule.program, "run", schedule.job]
    run = " ".join([f"TEXTMILL_HOME={shlex.quote(schedule.home)}", *map(shlex.quote, words)])
    read = ""
    if schedule.environment:
        path = shlex.quote(schedule.environment)
        read = f"[ ! -r {path} ] || {{ set -a; . {path}; set +a; }}; "
    log = shlex.quote(log_path(schedule))
    tries = " ".join(map(str, range(1, MAX_STARTS + 1)))
    command = (
        f"{read}for n in {tries}; do {run}; "
        f"[ $? -eq 5 ] || break; sleep {TRY_AGAIN_SECONDS}; done >{log} 2>&1"
    )
    if not command.isprintable() or "\\" in command:
        raise UsageError(
            f"{printable(schedule.job)}: a crontab cannot hold a path with a line end, "
            "a control character or a backslash"
        )
    line = f"{minutes % 60} {minutes // 60} * * * {command.replace('%', chr(92) + '%')}"
    if len(line.encode()) > _LONGEST_LINE:
        raise UsageError(
            f"{printable(schedule.job)}: its line would have {len(line.encode()):,} bytes, "
            f"and cron reads {_LONGEST_LINE:,}",
            hint="a shorter path, or a link to it",
        )
    return line


def log_path(schedule: Schedule) -> str:
    """Where a run of cron says what a terminal would show; the journal has it under systemd."""
    return f"{schedule.home}/{schedule.name}.log"


def with_schedule(crontab: str, schedule: Schedule) -> str:
    """The crontab with this schedule, in the place of one with its name; all else as it was."""
    rest = without_schedule(crontab, schedule.name)
    ended = rest if not rest or rest.endswith("\n") else rest + "\n"
    return f"{ended}{_mark(schedule)}\n{crontab_line(schedule)}\n"


def without_schedule(crontab: str, name: str) -> str:
    """The crontab without the two lines of the schedule of this name; all else as it was."""
    kept: list[str] = []
    is_ours = False
    for line in re.split(r"(?<=\n)", crontab):
        if is_ours and "TEXTMILL_HOME=" in line:  # not what somebody put between the two
            is_ours = False
            continue
        found = read_mark(line)
        is_ours = found is not None and found.name == name
        if not is_ours:
            kept.append(line)
    return "".join(kept)


def schedules_of(text: str) -> list[Schedule]:
    """Every schedule whose mark stands in a crontab or a unit."""
    return [found for line in text.splitlines() if (found := read_mark(line)) is not None]


def read_mark(line: str) -> Schedule | None:
    """The schedule that a line of comment holds; None for any other line."""
    if not line.startswith(MARK):
        return None
    try:
        return msgspec.json.decode(line.removeprefix(MARK), type=Schedule)
    except msgspec.MsgspecError:
        return None


def next_time(schedule: Schedule, now: datetime) -> datetime:
    """When it is due next, random delay aside; `now` has a time zone, and so has what comes back.

    A time of day that a change of clocks leaves out is due an hour later, as the clocks show it.
    """
    hour, minute = map(int, schedule.at.split(":"))
    local = now.astimezone()
    for day in range(3):
        date = (local + timedelta(days=day)).date()
        due = datetime(date.year, date.month, date.day, hour, minute).astimezone()
        if due > now:
            return due
    raise AssertionError("a day has every time of day")


def _own_delay(schedule: Schedule) -> int:
    """Seconds of the random delay that are this schedule's own."""
    if not schedule.delay_seconds:
        return 0
    seed = hashlib.sha256(f"{schedule.home}\0{schedule.job}".encode()).digest()
    return int.from_bytes(seed[:8], "big") % (schedule.delay_seconds + 1)


def _mark(schedule: Schedule) -> str:
    # Escaped to ASCII: a path can end in a backslash or hold what an editor shows in its own way.
    raw = msgspec.json.encode(schedule).decode()
    return MARK + "".join(c if c < "\x7f" else _json_escape(c) for c in raw)


def _json_escape(character: str) -> str:
    pairs = character.encode("utf-16-be")
    return "".join(f"\\u{pairs[at]:02x}{pairs[at + 1]:02x}" for at in range(0, len(pairs), 2))


def _argument(word: str) -> str:
    """A word of ExecStart: no `$` of it is a variable, no `%` a specifier."""
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
        raise UsageError(f"{printable(path)}: systemd reads no such name of a file")
    return path.replace("%", "%%")
