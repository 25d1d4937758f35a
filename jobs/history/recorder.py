"""What is written of a run while it runs: `events.jsonl` in its folder, its figures for `status`.

A thread writes once a second, so that a slow or full disk holds up no call and ends no run; what
could not be written is told at the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from jobs.history.event_log import EVERY_SECONDS, EventLog, plain
from jobs.history.progress import Progress
from jobs.history.register import RegisterEntry, Run, RunProgress, as_text, utc
from pipeline import events
from pipeline.errors import CLASSES, TextmillError
from pipeline.text import many, reason

if TYPE_CHECKING:
    from pipeline.runs.summary import Ended


class Recorder:
    """Listens to one run: its journal, and its line in the register."""

    def __init__(
        self, entry: RegisterEntry, leave_page: Callable[[Run], None] = lambda run: None
    ) -> None:
        self._entry = entry
        self._leave_page = leave_page
        self._journal = EventLog()
        self._progress = Progress()
        self._state = "surveying"
        self._broken = ""
        self._run = entry.told
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write, name="record", daemon=True)
        self._thread.start()

    def on(self, event: events.Event) -> None:
        """One event, from the loop's thread; nothing is written here, and nothing is raised."""
        try:
            with self._lock:
                self._heard(event)
        except Exception as error:  # a bug here must cost no paid answer
            self._broken = (
                f"the record of this run is not whole: {type(error).__name__} in textmill"
            )

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.Started):
            folder = str(Path(event.folder).absolute())
            self._run = replace(self._run, run=event.run, folder=as_text(folder))
            self._journal.open(Path(event.folder))
        self._progress.on(event)
        self._journal.on(event)
        match event:
            case events.Surveyed():
                self._state = "working"
            case events.Draining():
                self._state = "draining"

    def ended(self, ended: Ended) -> None:
        """How the engine says it ended."""
        told, error = ended.summary, ended.error
        self._stop()
        with self._lock:
            self._run = replace(
                _with(self._figures(), told),
                exit=told.exit,
                class_=told.class_,
                resumable=told.resumable,
                error=plain(str(error))[:2_000] if error else "",
                hint=plain(error.hint or "")[:500] if error else "",
                latency={e.name: (e.p50_seconds, e.p95_seconds) for e in told.endpoints if e.calls},
            )

    def close(self, exit_code: int, class_: str, *, resumable: bool, error: str = "") -> list[str]:
        """Both are written to their end; what could not be, for people.

        The exit code counts where no `ended` came before: the run did not get as far.
        """
        self._stop()
        run = self._run
        if run.exit is None:
            run = replace(
                self._figures(),
                exit=exit_code,
                class_=class_,
                resumable=resumable,
                error=plain(error)[:2_000],
            )
        at = utc(time.time())
        last: dict[str, Any] = {"event": "ended", "exit": run.exit, "class": run.class_}
        missing = self._journal.close(**last) if run.folder else ""
        notes = tuple(note for note in (missing, self._broken) if note)
        self._entry.end(replace(run, ended_at=at, live=None, notes=notes))
        if run.folder:
            notes += self._page_left(self._entry.told)
        trouble = self._entry.trouble
        told = [f"{trouble}: `status` may not show this run as it was"] if trouble else []
        return [*notes, *told]

    def _page_left(self, run: Run) -> tuple[str, ...]:
        try:
            self._leave_page(run)
        except Exception as error:  # the run is over: nothing here may change how it ended
            return (f"report.html cannot be written: {reason(error)}",)
        return ()

    def _figures(self) -> Run:
        """The run so far, as its events tell it."""
        progress = self._progress
        pause = progress.last_pause
        return replace(
            _with(self._run, progress.stats),
            endpoints={name: usage.rounded() for name, usage in progress.endpoints.items()},
            live=RunProgress(
                done=round(progress.done, 1),
                seen_at=utc(time.time()),
                state=self._state,
                pause=f"{pause.kind} from {plain(pause.endpoint)}, {many(pause.times, 'time')}"
                if pause
                else "",
            ),
        )

    def _write(self) -> None:
        while not self._is_over.wait(EVERY_SECONDS):
            with self._lock:
                figures = self._figures()
                self._journal.fold()
            self._journal.flush()
            self._entry.show(figures)

    def _stop(self) -> None:
        self._is_over.set()
        self._thread.join()


def _with(run: Run, stats: events.RunStats) -> Run:
    """The run with these figures."""
    names = events.RunStats.__struct_fields__
    return replace(run, **{name: getattr(stats, name) for name in names})


@contextmanager
def record_run(
    home: Path,
    told: Run,
    say: Callable[[str], None],
    leave_page: Callable[[Run], None] = lambda run: None,
) -> Iterator[Recorder]:
    """A run with its line in the register, however it ends; `say` gets what went missing.

    `leave_page` writes the report of the run that ended into its folder.
    """
    recording = Recorder(RegisterEntry(home, told), leave_page)
    code, is_resumable, why = 1, True, ""
    try:
        yield recording
    except TextmillError as error:
        code, is_resumable, why = error.exit_code, error.resumable, str(error)
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        raise
    except BaseException as error:
        why = f"{type(error).__name__}, a bug in textmill"
        raise
    finally:
        class_ = CLASSES.get(code, "internal")
        for line in recording.close(code, class_, resumable=is_resumable, error=why):
            say(line)
