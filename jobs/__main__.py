"""The console script: standard streams, signals and exit codes, outside of any command.

Nothing slow is imported at the top: until `main` runs, ctrl-C would print a traceback.
"""

from __future__ import annotations

import os
import signal
import sys

from jobs import stdio

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""End the process with 143; while a run works, `pipeline.runs.interrupts` receives them instead."""


def main() -> None:
    """Runs one command and ends the process with a code of the table in docs/errors.md."""
    code = 1
    try:
        # Arrow reads this once, at import. Its own allocator keeps the memory of a large page.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        stdio.use_utf8()
        stdio.open_streams()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, _exit_terminated)
        code = _exit_code()
    except KeyboardInterrupt:
        code = 130
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    code = stdio.close(code)
    if code in (130, 143):
        # Threads may still read a long input; their results are not needed any more.
        os._exit(code)
    sys.exit(code)


def _exit_code() -> int:
    from jobs.commands import start

    try:
        return start()
    except Exception as error:  # outside of every command, such as a module that cannot be read
        from jobs.cli.shell import report

        return report(error)


def _exit_terminated(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
