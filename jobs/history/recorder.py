"""The record of a run while it runs: `events.jsonl` in its folder, its statistics for `status`.

A thread writes once a second, so that a slow or full disk delays no call and ends no run. Write
errors are reported at the end.
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
    """Listens to one run and writes its event log and its entry in the register."""

    def __init__(
        self, entry: RegisterEntry, write_page: Callable[[Run], None] = lambda run: None
    ) -> None:
        self._entry = entry
        self._write_page = write_page
        self._log = EventLog()
        self._progress = Progress()
        self._state = "surveying"
        self._broken = ""
        self._run = entry.run
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_every_second, name="record", daemon=True)
        self._thread.start()

    def on(self, event: events.Event) -> None:
        """Records one event, from the thread of the loop. Writes nothing and never raises."""
        try:
            with self._lock:
                self._record(event)
        except Exception as error:  # a bug here must not lose a paid answer
            self._broken = (
                f"the record of this run is incomplete: {type(error).__name__} in textmill"
            )

    def _record(self, event: events.Event) -> None:
        if isinstance(event, events.Started):
            folder = str(Path(event.folder).absolute())
            self._run = replace(self._run, run=event.run, folder=as_text(folder))
            self._log.open(Path(event.folder))
        self._progress.on(event)
        self._log.on(event)
        match event:
            case events.Surveyed():
                self._state = "working"
            case events.Draining():
                self._state = "draining"

    def ended(self, ended: Ended) -> None:
        """Records the engine's summary."""
        summary, error = ended.summary, ended.error
        self._stop()
        with self._lock:
            self._run = replace(
                _with_stats(self._stats(), summary),
                exit=summary.exit,
                class_=summary.class_,
                resumable=summary.resumable,
                error=plain(str(error))[:2_000] if error else "",
                hint=plain(error.hint or "")[:500] if error else "",
                latency={
                    e.name: (e.p50_seconds, e.p95_seconds) for e in summary.endpoints if e.calls
                },
            )

    def close(self, exit_code: int, class_: str, *, resumable: bool, error: str = "") -> list[str]:
        """Completes the log and the register entry; the write errors, as lines for people.

        The exit code counts only if `ended` was not called: the run did not get that far.
        """
        self._stop()
        run = self._run
        if run.exit is None:
            run = replace(
                self._stats(),
                exit=exit_code,
                class_=class_,
                resumable=resumable,
                error=plain(error)[:2_000],
            )
        at = utc(time.time())
        last: dict[str, Any] = {"event": "ended", "exit": run.exit, "class": run.class_}
        missing = self._log.close(**last) if run.folder else ""
        notes = tuple(note for note in (missing, self._broken) if note)
        self._entry.end(replace(run, ended_at=at, live=None, notes=notes))
        if run.folder:
            notes += self._page_notes(self._entry.run)
        trouble = self._entry.trouble
        register_notes = [f"{trouble}: `status` may show this run incompletely"] if trouble else []
        return [*notes, *register_notes]

    def _page_notes(self, run: Run) -> tuple[str, ...]:
        try:
            self._write_page(run)
        except Exception as error:  # the run is over; an error here must not change its exit code
            return (f"report.html cannot be written: {reason(error)}",)
        return ()

    def _stats(self) -> Run:
        """The run so far, from its events."""
        progress = self._progress
        pause = progress.last_pause
        return replace(
            _with_stats(self._run, progress.stats),
            endpoints={name: usage.rounded() for name, usage in progress.endpoints.items()},
            live=RunProgress(
                done=round(progress.done, 1),
                seen_at=utc(time.time()),
                state=self._state,
                pause=f"{plain(pause.endpoint)} ({pause.kind}), {many(pause.times, 'time')}"
                if pause
                else "",
            ),
        )

    def _write_every_second(self) -> None:
        while not self._is_over.wait(EVERY_SECONDS):
            with self._lock:
                stats = self._stats()
                self._log.fold()
            self._log.flush()
            self._entry.show(stats)

    def _stop(self) -> None:
        self._is_over.set()
        self._thread.join()


def _with_stats(run: Run, stats: events.RunStats) -> Run:
    """The run with these statistics."""
    names = events.RunStats.__struct_fields__
    return replace(run, **{name: getattr(stats, name) for name in names})


@contextmanager
def record_run(
    home: Path,
    run: Run,
    print_line: Callable[[str], None],
    write_page: Callable[[Run], None] = lambda run: None,
) -> Iterator[Recorder]:
    """Records a run in the register, however it ends; `print_line` gets the write errors.

    `write_page` writes the report of the ended run into its folder.
    """
    recording = Recorder(RegisterEntry(home, run), write_page)
    code, is_resumable, message = 1, True, ""
    try:
        yield recording
    except TextmillError as error:
        code, is_resumable, message = error.exit_code, error.resumable, str(error)
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
        raise
    except BaseException as error:
        message = f"{type(error).__name__}, a bug in textmill"
        raise
    finally:
        class_ = CLASSES.get(code, "internal")
        for line in recording.close(code, class_, resumable=is_resumable, error=message):
            print_line(line)
