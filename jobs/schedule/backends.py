"""The schedulers: the user's systemd, or the user's crontab.

Both list, write and remove schedules; `jobs.schedule.units` makes the texts. systemd is configured
by the files that `systemctl enable` would make, so that a timer can be set up where no manager runs
yet, as in an image build. A running manager is reloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from jobs.home import NOWHERE, config_folder, data_folder
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
    """Keeps schedules. `notes` are lines for the user about the last change."""

    name: str
    notes: list[str]

    def schedules(self) -> list[Schedule]:
        """The schedules that textmill wrote."""

    def texts(self, schedule: Schedule) -> dict[str, str]:
        """The texts that `write` writes, by path."""

    def is_written(self, schedule: Schedule) -> bool:
        """True if `write` would change nothing."""

    def write(self, schedule: Schedule) -> None:
        """Writes the schedule; it replaces one with the same name."""

    def remove(self, schedule: Schedule) -> None:
        """Removes the schedule completely; a current run continues."""


class Systemd:
    """Timers and services of the user's own systemd."""

    name = "systemd"

    def __init__(self) -> None:
        self._folder = self._stamps = NOWHERE
        with suppress(UsageError):  # without a home there are no schedules
            self._folder = config_folder() / "systemd" / "user"
            self._stamps = data_folder() / "systemd" / "timers"
        self.notes: list[str] = []

    @staticmethod
    def answers() -> bool:
        """True if a running manager responds."""
        return _run_command(["systemctl", "--user", "show-environment"]).returncode == 0

    def schedules(self) -> list[Schedule]:
        schedules = []
        for path in sorted(self._folder.glob("textmill-*.timer")):
            with suppress(OSError, UnicodeDecodeError):
                schedules += schedules_of(path.read_text("utf-8"))[:1]
        return schedules

    def texts(self, schedule: Schedule) -> dict[str, str]:
        unit = str(self._folder / unit_name(schedule.name))
        return {f"{unit}.timer": timer(schedule), f"{unit}.service": service(schedule)}

    def is_written(self, schedule: Schedule) -> bool:
        return self._link(schedule).is_symlink() and all(
            _text(Path(path)) == text for path, text in self.texts(schedule).items()
        )

    def write(self, schedule: Schedule) -> None:
        link, unit = self._link(schedule), f"{unit_name(schedule.name)}.timer"
        with _storage_error(self._folder):
            link.parent.mkdir(parents=True, exist_ok=True)
            for path, text in self.texts(schedule).items():
                with replaced(Path(path)) as file:
                    file.write(text.encode())
            if not link.is_symlink():
                link.symlink_to(self._folder / unit)
        self.notes = []
        if not self.answers():
            self.notes.append(
                "systemctl --user does not respond: the timer starts at your next login, or, where "
                f"systemctl responds, with: {_reload(unit)}"
            )
            return
        for command in (["daemon-reload"], ["restart", unit]):
            ran = _run_command(["systemctl", "--user", *command])
            if ran.returncode:
                raise StorageError(
                    f"systemctl --user {command[0]}: {printable(ran.stderr.strip(), 300)}"
                )
        user = os.environ.get("USER") or str(os.getuid())
        if not Path("/var/lib/systemd/linger", user).exists():
            self.notes.append(
                "it runs only while you are logged in; to run it always: loginctl enable-linger"
            )

    def remove(self, schedule: Schedule) -> None:
        unit, answers = f"{unit_name(schedule.name)}.timer", self.answers()
        self.notes = []
        if answers:
            _run_command(["systemctl", "--user", "stop", unit])
        with _storage_error(self._folder):
            self._link(schedule).unlink(missing_ok=True)
            for kind in ("timer", "service"):
                name = f"{unit_name(schedule.name)}.{kind}"
                (self._folder / name).unlink(missing_ok=True)
            (self._stamps / f"stamp-{unit}").unlink(missing_ok=True)
        with suppress(OSError):  # a folder with other units is kept
            self._link(schedule).parent.rmdir()
        if answers:
            _run_command(["systemctl", "--user", "daemon-reload"])
            service = f"{unit_name(schedule.name)}.service"
            if (
                _run_command(["systemctl", "--user", "is-active", "--quiet", service]).returncode
                == 0
            ):
                self.notes.append(
                    f"the current run continues; to stop it: systemctl --user stop {service}"
                )
            else:
                _run_command(["systemctl", "--user", "reset-failed", service])

    def _link(self, schedule: Schedule) -> Path:
        return self._folder / "timers.target.wants" / f"{unit_name(schedule.name)}.timer"


class Crontab:
    """Lines of the user's crontab, each under a comment that identifies the schedule."""

    name = "crontab"

    def __init__(self) -> None:
        self.notes: list[str] = []

    def schedules(self) -> list[Schedule]:
        if not shutil.which("crontab"):
            return []
        try:
            return schedules_of(self._read())
        except StorageError:  # a user without permission has no crontab
            return []

    def texts(self, schedule: Schedule) -> dict[str, str]:
        return {"crontab": crontab_line(schedule) + "\n"}

    def is_written(self, schedule: Schedule) -> bool:
        return with_schedule("", schedule) in self._read()

    def write(self, schedule: Schedule) -> None:
        home = Path(schedule.home)
        with _storage_error(home):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)  # its log goes there
        self._replace(with_schedule(self._read(), schedule))
        self.notes = [
            f"its output goes to {shown(log_path(schedule))}; a run is skipped if this machine is "
            "off or asleep at that time"
        ]

    def remove(self, schedule: Schedule) -> None:
        self._replace(without_schedule(self._read(), schedule.name))
        with suppress(OSError):
            Path(log_path(schedule)).unlink(missing_ok=True)
        self.notes = []

    @staticmethod
    def _read() -> str:
        ran = _run_command(["crontab", "-l"])
        if ran.returncode and "no crontab" not in ran.stderr:
            raise StorageError(f"crontab -l: {printable(ran.stderr.strip(), 300)}")
        return "" if ran.returncode else ran.stdout

    @staticmethod
    def _replace(text: str) -> None:
        ran = (
            _run_command(["crontab", "-"], text)
            if text.strip()
            else _run_command(["crontab", "-r"])
        )
        if ran.returncode:
            raise StorageError(f"crontab: {printable(ran.stderr.strip(), 300)}")


def scheduler(*, wants_crontab: bool) -> Scheduler:
    """The scheduler of this machine. Raises: UsageError if there is none."""
    has_systemd, has_crontab = bool(shutil.which("systemctl")), bool(shutil.which("crontab"))
    if wants_crontab and not has_crontab:
        raise UsageError("--crontab: no `crontab` on this machine")
    if wants_crontab or (has_crontab and not (has_systemd and _is_booted())):
        return Crontab()
    if has_systemd:
        return Systemd()
    raise UsageError(
        "this machine has neither systemd nor crontab: nothing would start a schedule",
        hint="let the scheduler of your containers run `textmill run JOB`, and again after exit 5",
    )


def schedulers() -> list[Scheduler]:
    """All schedulers that may keep schedules on this machine."""
    return [Systemd(), Crontab()]


def _is_booted() -> bool:
    return Path("/run/systemd/system").is_dir() or Systemd.answers()


def _reload(unit: str) -> str:
    return f"systemctl --user daemon-reload && systemctl --user start '{unit}'"


def _run_command(command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The result of a command; a missing or hanging command counts as failed."""
    try:
        return subprocess.run(
            command,
            input=stdin,
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
def _storage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {reason(error)}") from None
