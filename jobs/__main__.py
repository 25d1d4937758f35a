"""The command line: the names of the commands, and where each of them is.

Only click is imported here, so that `textmill --help` is as fast as click; a command's module is
imported when it runs or when its own help is asked for. What it takes and does is in `jobs/cli/`.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

# fmt: off
COMMANDS = {
    "cache": ("cli.cache:cache",
              "The answers that are kept: count, check, prune and carry them."),
    "chunks": ("cli.chunks:chunks",
               "Show where the documents of FILE_OR_JOB (- for stdin) are cut."),
    "explain": ("cli.explain:explain",
                "Say why a row of JOB would be paid for again, or would not."),
    "mock": ("cli.mock:mock", "Serve every protocol with made-up answers."),
    "plan": ("cli.plan:plan", "Say what a run of JOB would do and cost, without the network."),
    "report": ("cli.report:report", "What a run did and what is to be done."),
    "run": ("cli.run:run", "Run JOB, a job file or the name of a template."),
    "schedule": ("cli.schedule:schedule", "Run a job every night."),
    "search": ("cli.search:search",
               "Ask an embedded corpus: the chunks of OUT nearest to QUESTION."),
    "status": ("cli.status:status",
               "What ran, when, how it ended, what it cost, and what is open."),
    "templates": ("cli.templates:templates", "List the templates, or print the one called NAME."),
}
# fmt: on
"""By name: `module:command`, relative to this package, whatever that is called where it is
installed; and the first sentence of the command's help (a test compares them)."""


class LazyGroup(click.Group):
    """A group whose `commands` are only names and sentences; the command itself is imported."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"{__package__}.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists them without importing any."""
        click.Group(commands=self.commands).format_commands(ctx, formatter)


@click.group(
    cls=LazyGroup,
    commands=[click.Command(name, help=about) for name, (_, about) in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="textmill", message="%(prog)s %(version)s")
def cli() -> None:
    """A job runner for long texts: rows in, chunks to inference endpoints, ordered results out."""


def main() -> None:
    """The console script: what the shell sees of a start or an end that no command controls."""
    # Arrow reads this once, when it is loaded. Its own allocator keeps what a large page took.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    for descriptor in (0, 1, 2):  # one that the caller closed would become some file of ours
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGTERM, _terminated)
    code: Any = 0
    try:
        code = cli.main(prog_name="textmill", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as ended:
        code = ended.code
    if code in (130, 143):
        # Threads may still be reading a long input; what they find is of no use any more.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _terminated(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
