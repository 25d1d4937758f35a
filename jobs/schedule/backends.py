"""Where schedules live: the user's systemd, or the user's crontab.

Both list, write and remove; what they write is made in `jobs.schedule.units`. systemd is used
through the files that `systemctl enable` would make, so that a timer can be set up where no manager
runs yet, as in the build of an image; where one answers, it is told.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from jobs.schedule.units import (
    Schedule,
    crontab_line,
    log_path,
    schedules_of,
    service,
    timer,
    unit_name,
    with_schedule,
    without_schedule,
)
from pipeline.disk.durable import replaced
from pipeline.errors import StorageError, UsageError
from pipeline.text import printable, reason, shown


class Scheduler(Protocol):
    """Keeps schedules. `remarks` are lines for the user about the last write."""

    name: str
    notes: list[str]

    def schedules(self) -> list[Schedule]:
        """Those that textmill wrote."""

    def texts(self, schedule: Schedule) -> dict[str, str]:
        """What `write` puts where."""

    def is_written(self, schedule: Schedule) -> bool:
        """True where a write would change nothing."""

    def write(self, schedule: Schedule) -> None:
        """The schedule stands, in the place of one of its name."""

    def remove(self, schedule: Schedule) -> None:
        """Nothing of the schedule is left; a run under way goes on."""


class Systemd:
    """Timers and services of the user's own systemd."""

    name = "systemd"

    def __init__(self) -> None:
        config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
        self._folder = config / "systemd" / "user"
        self._stamps = data / "systemd" / "timers"
        self.notes: list[str] = []

    @staticmethod
    def answers() -> bool:
        """True where a manager runs that can be told."""
        return _ran(["systemctl", "--user", "show-environment"]).returncode == 0

    def schedules(self) -> list[Schedule]:
        found = []
        for path in sorted(self._folder.glob("textmill-*.timer")):
            with suppress(OSError, UnicodeDecodeError):
                found += schedules_of(path.read_text("utf-8"))[:1]
        return found

    def texts(self, schedule: Schedule) -> dict[str, str]:
        unit = str(self._folder / unit_name(schedule.name))
        return {f"{unit}.timer": timer(schedule), f"{unit}.service": service(schedule)}

    def is_written(self, schedule: Schedule) -> bool:
        return self._link(schedule).is_symlink() and all(
            _text(Path(path)) == text for path, text in self.texts(schedule).items()
        )

    def write(self, schedule: Schedule) -> None:
        link, unit = self._link(schedule), f"{unit_name(schedule.name)}.timer"
        with _storing(self._folder):
            link.parent.mkdir(parents=True, exist_ok=True)
            for path, text in self.texts(schedule).items():
                with replaced(Path(path)) as file:
                    file.write(text.encode())
            if not link.is_symlink():
                link.symlink_to(self._folder / unit)
        self.notes = []
        if not self.answers():
            self.notes.append(
                "systemctl --user does not answer here: the timer starts with your next login; or, "
                f"where it answers, now: {_reload(unit)}"
            )
            return
        for command in (["daemon-reload"], ["restart", unit]):
            ran = _ran(["systemctl", "--user", *command])
            if ran.returncode:
                raise StorageError(
                    f"systemctl --user {command[0]}: {printable(ran.stderr.strip(), 300)}"
                )
        user = os.environ.get("USER") or str(os.getuid())
        if not Path("/var/lib/systemd/linger", user).exists():
            self.notes.append("it runs while you are logged in; always: loginctl enable-linger")

    def remove(self, schedule: Schedule) -> None:
        unit, answers = f"{unit_name(schedule.name)}.timer", self.answers()
        self.notes = []
        if answers:
            _ran(["systemctl", "--user", "stop", unit])
        with _storing(self._folder):
            self._link(schedule).unlink(missing_ok=True)
            for kind in ("timer", "service"):
                name = f"{unit_name(schedule.name)}.{kind}"
                (self._folder / name).unlink(missing_ok=True)
            (self._stamps / f"stamp-{unit}").unlink(missing_ok=True)
        with suppress(OSError):  # a folder that holds others stays
            self._link(schedule).parent.rmdir()
        if answers:
            _ran(["systemctl", "--user", "daemon-reload"])
            service = f"{unit_name(schedule.name)}.service"
            if _ran(["systemctl", "--user", "is-active", "--quiet", service]).returncode == 0:
                self.notes.append(f"its run goes on; to end it: systemctl --user stop {service}")
            else:
                _ran(["systemctl", "--user", "reset-failed", service])

    def _link(self, schedule: Schedule) -> Path:
        return self._folder / "timers.target.wants" / f"{unit_name(schedule.name)}.timer"


class Crontab:
    """Lines of the user's crontab, each under a comment that says whose it is."""

    name = "crontab"

    def __init__(self) -> None:
        self.notes: list[str] = []

    def schedules(self) -> list[Schedule]:
        if not shutil.which("crontab"):
            return []
        try:
            return schedules_of(self._read())
        except StorageError:  # who may not have a crontab has none
            return []

    def texts(self, schedule: Schedule) -> dict[str, str]:
        return {"crontab": crontab_line(schedule) + "\n"}

    def is_written(self, schedule: Schedule) -> bool:
        return with_schedule("", schedule) in self._read()

    def write(self, schedule: Schedule) -> None:
        home = Path(schedule.home)
        with _storing(home):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)  # its log goes there
        self._replace(with_schedule(self._read(), schedule))
        self.notes = [
            f"what it says goes to {shown(log_path(schedule))}; a night that this machine sleeps "
            "through is left out"
        ]

    def remove(self, schedule: Schedule) -> None:
        self._replace(without_schedule(self._read(), schedule.name))
        with suppress(OSError):
            Path(log_path(schedule)).unlink(missing_ok=True)
        self.notes = []

    @staticmethod
    def _read() -> str:
        ran = _ran(["crontab", "-l"])
        if ran.returncode and "no crontab" not in ran.stderr:
            raise StorageError(f"crontab -l: {printable(ran.stderr.strip(), 300)}")
        return "" if ran.returncode else ran.stdout

    @staticmethod
    def _replace(text: str) -> None:
        ran = _ran(["crontab", "-"], text) if text.strip() else _ran(["crontab", "-r"])
        if ran.returncode:
            raise StorageError(f"crontab: {printable(ran.stderr.strip(), 300)}")


def scheduler(*, wants_crontab: bool) -> Scheduler:
    """Who keeps schedules on this machine. Raises: UsageError where there is nobody."""
    has_systemd, has_crontab = bool(shutil.which("systemctl")), bool(shutil.which("crontab"))
    if wants_crontab and not has_crontab:
        raise UsageError("--crontab: no `crontab` on this machine")
    if wants_crontab or (has_crontab and not (has_systemd and _is_booted())):
        return Crontab()
    if has_systemd:
        return Systemd()
    raise UsageError(
        "neither systemd nor crontab on this machine: nothing would start a schedule",
        hint="let what starts your containers run `textmill run JOB`, and again after exit 5",
    )


def schedulers() -> list[Scheduler]:
    """Everybody who may keep schedules here."""
    return [Systemd(), Crontab()]


def _is_booted() -> bool:
    return Path("/run/systemd/system").is_dir() or Systemd.answers()


def _reload(unit: str) -> str:
    return f"systemctl --user daemon-reload && systemctl --user start '{unit}'"


def _ran(command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    """What a command said; one that is not there, or hangs, failed."""
    try:
        return subprocess.run(
            command,
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=30,
            check=False,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {reason(error)}") from None
