"""Writes the two reference pages from the program itself: `python docs/reference.py`.

A test compares them with what stands in the repository, so they cannot drift.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.__main__ import cli
from jobs.spec import reference

HERE = Path(__file__).parent
WIDTH: dict[str, Any] = {"terminal_width": 80, "max_content_width": 80}


def command_line() -> str:
    """docs/cli.md: every command's --help, as it is printed at 80 columns."""
    pages = ["# The command line\n\nMade by `python docs/reference.py` from `--help`.\n"]
    root = click.Context(cli, info_name="textmill", **(cli.context_settings | WIDTH))
    contexts = [root]
    for name in sorted(cli.commands):
        command = cli.commands[name]
        contexts.append(click.Context(command, root, name, **WIDTH))
        if isinstance(command, click.Group):
            group = contexts[-1]
            contexts += [
                click.Context(each, group, its, **WIDTH) for its, each in command.commands.items()
            ]
    for context in contexts:
        told = context.command.get_help(context)
        pages.append(f"## {context.command_path}\n\n```\n{told}\n```\n")
    return "\n".join(pages)


def job_file() -> str:
    """docs/job-file.md: every key with its type, default and meaning."""
    lines = [
        "# The job file",
        "",
        "TOML; every key can be set on the command line, too: `--set chunk.size=256`. Unknown",
        "keys are refused with the nearest name. Relative paths belong to the job file's folder.",
        "Made by `python docs/reference.py` from `jobs/spec.py`.",
        "",
        "| key | takes | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in reference():
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| `{cells[0]}` | {cells[1]} | {cells[2]} | {cells[3]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "cli.md").write_text(command_line(), "utf-8")
    (HERE / "job-file.md").write_text(job_file(), "utf-8")
