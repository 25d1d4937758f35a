"""`textmill templates`: the job files that come with textmill."""

from __future__ import annotations

import sys
from importlib import resources
from typing import Any

import msgspec

from jobs.cli.shell import reported
from pipeline.errors import UsageError
from pipeline.text import printable


def templates(name: str | None, *, as_json: bool) -> int:
    """The job files that come with textmill, or one of them."""
    return reported(lambda: _templates(name, as_json))


def _templates(name: str | None, as_json: bool) -> int:
    from jobs.spec.load import templates as found

    known: dict[str, Any] = dict(found())
    if name is None:
        for each, purpose in known.items():
            if as_json:
                print(msgspec.json.encode({"name": each, "purpose": purpose}).decode())
            else:
                print(f"{each:<10} {purpose}")
        return 0
    if name not in known:
        raise UsageError(
            f"no template `{printable(name)}`", hint="templates are " + ", ".join(known)
        )
    sys.stdout.write((resources.files("jobs") / "templates" / f"{name}.toml").read_text("utf-8"))
    return 0
