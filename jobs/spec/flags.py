"""The flags of the command line that set a key of the job file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobs.spec.job import KEY
from jobs.spec.table import flag_of


def command_line(
    source: str, overrides: Iterable[str], flags: Mapping[str, object], verb: str = "run"
) -> list[str]:
    """The words of the command that runs this job again."""
    words = ["textmill", verb, source]
    for key, value in flags.items():
        if value is True:
            words.append(flag(key))
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [word for item in values for word in (flag(key), _word(item))]
    return words + [word for override in overrides for word in ("--set", override)]


def _word(value: object) -> str:
    """The value as a person types it: 1, not 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def flag(name: str) -> str:
    """The flag of a key, in its short form if there is one."""
    key = KEY.get(name)
    return (key.short or key.flag if key else "") or flag_of(name)
