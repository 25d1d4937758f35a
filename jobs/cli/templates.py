"""`textmill templates`: the job files that come with textmill."""

from __future__ import annotations

import sys
from importlib import resources
from typing import Any

import click

from jobs.cli.shell import command, print_json
from pipeline.errors import UsageError
from pipeline.text import printable


@command()
@click.argument("name", required=False)
def templates(name: str | None, as_json: bool) -> int:
    """List the templates, or print the template NAME. Templates are job files."""
    from jobs.spec.load import templates as all_templates

    purposes: dict[str, Any] = dict(all_templates())
    if name is None:
        for template, purpose in purposes.items():
            if as_json:
                print_json({"name": template, "purpose": purpose})
            else:
                print(f"{template:<10} {purpose}")
        return 0
    if name not in purposes:
        raise UsageError(
            f"no template `{printable(name)}`", hint="templates are " + ", ".join(purposes)
        )
    sys.stdout.write((resources.files("jobs") / "templates" / f"{name}.toml").read_text("utf-8"))
    return 0
