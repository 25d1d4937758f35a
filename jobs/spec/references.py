"""Values of a job file that may be credentials: a reference to the place of one, or a text.

No error repeats such a value: it may be the credential itself.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable

from jobs.secrets import Reference
from pipeline.errors import UsageError

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Wrong = Callable[[str, str, str | None], UsageError]
"""Makes the error of a key from the key, the problem and a hint."""


def reference(key: str, value: object, wrong: Wrong) -> Reference:
    """The place of a credential."""
    hint = f'{key.rpartition(".")[2]} = {{ env = "NAME" }} or {{ file = "path" }}'
    if not isinstance(value, dict):
        raise wrong(key, "must be a reference, never the key itself", hint)
    if len(value) != 1 or not set(value) <= {"env", "file"}:
        raise wrong(key, "must hold exactly one of `env` and `file`", hint)
    [(where, name_or_path)] = value.items()
    is_text = isinstance(name_or_path, str) and name_or_path
    if not is_text or CONTROL.search(name_or_path):
        raise wrong(f"{key}.{where}", "must be a name without control characters", hint)
    if where == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name_or_path):
        raise wrong(f"{key}.{where}", "must be the name of an environment variable", hint)
    return Reference(**value)


def text_or_reference(key: str, value: object, wrong: Wrong) -> str | Reference:
    """A text, or the place of one. A date without quotes is one, too: versions look like that."""
    match value:
        case dict():
            return reference(key, value, wrong)
        case bool():
            return str(value).lower()
        case dt.date() if not isinstance(value, dt.datetime):
            return value.isoformat()
        case int() if abs(value) < 2**63:
            return str(value)
        case str() if not CONTROL.search(value):
            return value
        case str():
            raise wrong(key, "must be one line without control characters", None)
    raise wrong(key, "must be a string in quotes, or a reference", None)


def texts_or_references(key: str, value: object, wrong: Wrong) -> dict[str, str | Reference]:
    """A table of them by name."""
    if not isinstance(value, dict):
        raise wrong(key, "must be a table of names and values", f'{key} = {{ NAME = "value" }}')
    return {name: text_or_reference(f"{key}.{name}", v, wrong) for name, v in value.items()}
