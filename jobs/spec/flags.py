"""The flags of the command line that set a key of the job file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobs.spec.job import KEY
from jobs.spec.table import flag_of


def command_line(source: str, overrides: Iterable[str], flags: Mapping[str, object]) -> list[str]:
    """The words of the command that does this job again."""
    words = ["textmill", "run", source]
    for key, value in flags.items():
        if value is True:
            words.append(flag(key))
        else:
            each = value if isinstance(value, (list, tuple)) else [value]
            words += [word for one in each for word in (flag(key), _word(one))]
    return words + [word for each in overrides for word in ("--set", each)]


def _word(value: object) -> str:
    """As somebody would type it: 1, not 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def flag(name: str) -> str:
    """How the command line calls a key: by the short form of its flag, where it has one."""
    key = KEY.get(name)
    return (key.short or key.flag if key else "") or flag_of(name)
