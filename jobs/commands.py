"""The group of all commands: the name, module and summary of each.

Only click is imported here, so that `textmill --help` is as fast as click. A command's module in
`jobs/cli/` is imported when the command runs or shows its own help.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

# fmt: off
COMMANDS = {
    "cache": ("cli.cache:cache",
              "Count, verify, prune, export and import the cached answers."),
    "check": ("cli.check:check",
              "Check a JOB before it runs: one request to each endpoint."),
    "chunks": ("cli.chunks:chunks",
               "Show the chunks of the documents in FILE_OR_JOB (- for stdin)."),
    "explain": ("cli.explain:explain",
                "Explain why a row of JOB is cached, or is not."),
    "mock": ("cli.mock:mock", "Serve every protocol with made-up answers, for tests."),
    "plan": ("cli.plan:plan", "Estimate the calls and the cost of a run of JOB, offline."),
    "report": ("cli.report:report", "Report what a run did and what to do next."),
    "run": ("cli.run:run", "Run JOB, a job file or the name of a template."),
    "schedule": ("cli.schedule:schedule", "Run a job every day at a fixed time."),
    "search": ("cli.search:search",
               "Find the chunks of an output OUT that are nearest to QUESTION."),
    "status": ("cli.status:status",
               "List the runs: start, ending, rows, cost, and how to resume."),
    "templates": ("cli.templates:templates", "List the templates, or print the template NAME."),
}
# fmt: on
"""By name: `module:command`, relative to this package, which may be installed under another name;
and the first sentence of the command's help (a test compares them)."""


class LazyGroup(click.Group):
    """A group whose `commands` hold only names and summaries; the command itself is imported."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"{__package__}.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing any."""
        click.Group(commands=self.commands).format_commands(ctx, formatter)


@click.group(
    cls=LazyGroup,
    commands=[click.Command(name, help=about) for name, (_, about) in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="textmill", message="%(prog)s %(version)s")
def cli() -> None:
    """Job runner for long texts: rows in, chunks to inference endpoints, ordered results out."""


def start() -> int:
    """Runs the command of `sys.argv`; its exit code."""
    try:
        code: Any = cli.main(prog_name="textmill", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = 130
    return int(code or 0)
