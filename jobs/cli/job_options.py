"""The options that set a key of the job file, made from the table of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import Struct

from jobs.spec.job import KEYS
from jobs.spec.table import Key
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from jobs.spec.job import Job

F = TypeVar("F", bound=Callable[..., Any])

FLAGGED = tuple(sorted((key for key in KEYS if key.flag), key=lambda key: not key.short))
"""The keys that have a flag: first input and output, then all others in the order of the file."""

HELP_GROUPS = {
    "input": "Input and output",
    "output": "Input and output",
    "chunk": "Chunking",
    "aggregate": "Chunking",
    "endpoint": "Endpoint",
    "parameters": "Endpoint",
    "budget": "Limits",
    "guard": "Limits",
    "run": "Run",
}
"""The heading in `--help` for the flags of each section of the job file."""


class KeyOption(click.Option):
    """An option that sets a key of the job file. `--help` lists it under `help_group`."""

    def __init__(self, *arguments: Any, help_group: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.help_group = help_group


class GroupedCommand(click.Command):
    """A command whose `--help` lists the job file's flags under headings, then all others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one list per group; all lists share the width of the first column."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in HELP_GROUPS.values()}
        groups["Options"] = []
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            if (row := parameter.get_help_record(ctx)) is not None:
                group = parameter.help_group if isinstance(parameter, KeyOption) else "Options"
                groups[group].append(row)
        width = max(len(option) for rows in groups.values() for option, _ in rows)
        for name, rows in groups.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl([(option.ljust(width), text) for option, text in rows])


class JobSettings(Struct, frozen=True):
    """The command line's changes to a job: by flags, and by `--set` as it was typed."""

    flags: Mapping[str, object] = {}
    overrides: tuple[str, ...] = ()

    def load(self, source: str, *, needs_output: bool = True, needs_input: bool = True) -> Job:
        """The job of a file or a template, with these settings. Raises: UsageError."""
        from jobs.spec.load import load

        return load(
            source,
            pairs(self.overrides),
            self.flags,
            needs_output=needs_output,
            needs_input=needs_input,
        )


def job_options(
    keys: Iterable[Key] = FLAGGED, set_help: str = "Set any key of the job file."
) -> Callable[[F], F]:
    """Gives a command the flags of these keys and `--set`, as the argument `settings`."""
    by_option = {key.flag.removeprefix("--").replace("-", "_"): key for key in keys}

    def with_options(command: F) -> F:
        @wraps(command)
        def with_settings(*, overrides: tuple[str, ...], **options: Any) -> Any:
            flags = {
                by_option[name].name: value
                for name, value in options.items()  # in the order in which they were typed
                if name in by_option and value not in (None, ())
            }
            others = {name: value for name, value in options.items() if name not in by_option}
            return command(settings=JobSettings(flags, overrides), **others)

        decorated: Any = with_settings
        decorated = click.option(
            "--set", "overrides", metavar="KEY=VALUE", multiple=True, help=set_help
        )(decorated)
        for name, key in reversed(by_option.items()):
            decorated = _key_option(key, name)(decorated)
        return decorated  # type: ignore[no-any-return]

    return with_options


def _key_option(key: Key, name: str) -> Callable[[F], F]:
    """The option that sets a key; its value is None if it is not on the command line."""
    names = [key.short, key.flag] if key.short else [key.flag]
    type_ = {"integer": int, "number": float}.get(str(key.type), str)
    value: dict[str, Any] = {"metavar": key.metavar, "type": type_}
    value["multiple"] = key.type == "strings"
    if key.type == "boolean":
        value = {"is_flag": True, "default": None}
    group = HELP_GROUPS[key.section]
    return click.option(*names, name, cls=KeyOption, help_group=group, help=_help(key), **value)


def _help(key: Key) -> str:
    """The text of a flag; with the choices of its key, if it has any."""
    if not key.choices or key.help.endswith("."):
        return key.help
    *names, last = key.choices
    return f"{key.help}: {', '.join(names)} or {last}."


def pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """The keys and values of `--set KEY=VALUE`.

    Raises: UsageError that does not repeat the text, which may be a secret.
    """
    keys_and_values = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError("--set takes KEY=VALUE, such as --set chunk.size=256")
        keys_and_values.append((key.strip(), value))
    return keys_and_values
