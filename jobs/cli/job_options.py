"""The options that set a key of the job file, made from its keys."""

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
"""The keys that have a flag: what is read and written, then all others in the order of the file."""


class JobSettings(Struct, frozen=True):
    """What the command line sets of a job: by flags, and by `--set` as it was typed."""

    flags: Mapping[str, object] = {}
    overrides: tuple[str, ...] = ()

    def load(self, source: str, *, needs_output: bool = True) -> Job:
        """The job of a file or a template, with these settings. Raises: UsageError."""
        from jobs.spec.load import load

        return load(source, pairs(self.overrides), self.flags, needs_output=needs_output)


def job_options(
    keys: Iterable[Key] = FLAGGED, set_help: str = "Any key of the file."
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

        made: Any = with_settings
        made = click.option(
            "--set", "overrides", metavar="KEY=VALUE", multiple=True, help=set_help
        )(made)
        for name, key in reversed(by_option.items()):
            made = _option(key, name)(made)
        return made  # type: ignore[no-any-return]

    return with_options


def _option(key: Key, name: str) -> Callable[[F], F]:
    """The option that sets a key; None where it is not given."""
    declared = [key.short] if key.short else []
    *others, last = key.choices or [""]
    help_ = key.help or f"{', '.join(others)} or {last}."
    if key.type == "boolean":
        return click.option(*declared, key.flag, name, is_flag=True, default=None, help=help_)
    type_ = {"integer": int, "number": float}.get(str(key.type), str)
    return click.option(
        *declared,
        key.flag,
        name,
        metavar=key.metavar,
        type=type_,
        multiple=key.type == "strings",
        help=help_,
    )


def pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """`KEY=VALUE` of --set, apart. Raises: UsageError without repeating what may be a secret."""
    found = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError("--set takes KEY=VALUE, such as --set chunk.size=256")
        found.append((key.strip(), value))
    return found
