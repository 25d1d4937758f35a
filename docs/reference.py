"""Writes the two reference pages from the program itself: `python docs/reference.py`.

A test compares them with what stands in the repository, so they cannot drift.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.__main__ import cli
from jobs.spec.load import reference

HERE = Path(__file__).parent
LISTS = """\
## Several endpoints, and rules

`[[endpoint]]` stands once for each service, at most 100 times, `[[rule]]` once for each value of a
column that ties rows to endpoints:

```toml
task = "summarization"
route = "ordered"

[[endpoint]]
name = "hub"
kind = "hf"
model = "facebook/bart-large-cnn"
api_key = { env = "HF_TOKEN" }

[[endpoint]]
kind = "local"
fallback = true

[[rule]]
column = "sensitive"
equals = true
endpoints = ["local"]
```

- An endpoint without a name has that of its kind. Where a job has several,
  `--set endpoint.hub.model=NAME` sets a key of one of them (`--set rule.1.equals=true` of a rule),
  and errors call it `endpoint.hub.model`; a flag such as `--model` is refused.
- An answer is kept under the model that gave it: the key of a request names the endpoint's kind,
  provider, model and revision. A replica (`replica_of`) has those of its origin, so that each may
  answer for the other.
- All endpoints of an embedding job serve one model: the same `model` and `revision`, or replicas
  of one another. The embedded model cannot stand beside a remote one. Anything else is refused,
  also where only a rule or a fallback leads there.
- `route = "cheapest"` and `budget.max_cost_usd` need a price of every endpoint but the embedded
  model.
- A row for which a rule's column has the rule's value goes to the rule's endpoints only, whatever
  the route and the fallbacks. `equals` is compared with its type: `1` is neither `true` nor `"1"`.
  The column need not be in the input. Where it is missing, null or of a type that no rule on it
  has, all rules on it hold. Several rules that hold leave the endpoints that all of them name; a
  row for which none is left is sent nowhere and fails.
"""

WIDTH: dict[str, Any] = {"terminal_width": 80, "max_content_width": 80}


def command_line() -> str:
    """docs/cli.md: every command's --help, as it is printed at 80 columns."""
    pages = ["# The command line\n\nMade by `python docs/reference.py` from `--help`.\n"]
    root = click.Context(cli, info_name="textmill", **(cli.context_settings | WIDTH))
    contexts = [root]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
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
        "Made by `python docs/reference.py` from `jobs/spec/job.py`.",
        "",
        "| key | takes | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in reference():
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| `{cells[0]}` | {cells[1]} | {cells[2]} | {cells[3]} |")
    return "\n".join([*lines, "", LISTS])


if __name__ == "__main__":
    (HERE / "cli.md").write_text(command_line(), "utf-8")
    (HERE / "job-file.md").write_text(job_file(), "utf-8")
