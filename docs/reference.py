"""Writes the two reference pages from the program itself: `python docs/reference.py`.

A test compares them with what stands in the repository, so they cannot drift.
"""

from __future__ import annotations

from pathlib import Path

import click

from jobs.__main__ import cli
from jobs.spec import reference

HERE = Path(__file__).parent


def command_line() -> str:
    """docs/cli.md: every command's --help, as it is printed at 80 columns."""
    pages = ["# The command line\n\nMade by `python docs/reference.py` from `--help`.\n"]
    for name in [None, *sorted(cli.commands)]:
        command = cli if name is None else cli.commands[name]
        path = "textmill" if name is None else f"textmill {name}"
        told = command.get_help(click.Context(command, info_name=path, terminal_width=80))
        pages.append(f"## {path}\n\n```\n{told}\n```\n")
    return "\n".join(pages)


def job_file() -> str:
    """docs/job-file.md: every key with its type, default and meaning."""
    lines = [
        "# The job file",
        "",
        "TOML; every key can be set on the command line, too: `--set chunk.size=256`. Unknown keys",
        "are refused with the nearest name. Relative paths belong to the job file's folder. Made by",
        "`python docs/reference.py` from `jobs/spec.py`.",
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
