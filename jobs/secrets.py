"""Credentials: reading them, and masking them in messages."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from pipeline.errors import UsageError
from pipeline.secret import Secret
from pipeline.text import printable

# Prefixes that services publish for secret scanners, and two headers. The minimum lengths avoid
# false alarms on words such as `hf_transformers` or `sk-learn` in a prompt.
_TOKEN = re.compile(
    r"""(?x)
      (?<![A-Za-z0-9]) (?:
        hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,} | sk-[A-Za-z0-9_-]{16,}
      | (?:gsk|r8|fw)_[A-Za-z0-9]{20,} | xai-[A-Za-z0-9]{20,} | AIza[A-Za-z0-9_-]{30,}
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,} | AKIA[A-Z0-9]{16}
      | eyJ[A-Za-z0-9_-]{10,2000}\.[A-Za-z0-9_-]{10,2000}(?:\.[A-Za-z0-9_-]*)?
      | (?i:bearer)\s+(?=[A-Za-z0-9._~+/-]*(?:[0-9_]|[a-z][A-Z]))[A-Za-z0-9._~+/=-]{8,}
      | (?i:basic)\s+(?=[A-Za-z0-9+/]*(?:[0-9]|[a-z][A-Z]))[A-Za-z0-9+/]{12,}={0,2}
      )"""
)
# Keys have 32 characters and more; names such as that of an organization have up to 29.
_LONG_PART = re.compile(r"[A-Za-z0-9+/_=-]{30,}")
_CHANGE = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[a-z])(?=[A-Z])")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_USER = re.compile(r"//[^/\s\"'`]*@")
_LARGEST_KEY_BYTES = 65_536


class Reference(Struct, frozen=True):
    """The place of a credential. Invariant: exactly one of the two is set."""

    env: str | None = None
    file: str | None = None


def looks_secret(text: str) -> bool:
    """True if the text contains a known kind of token, or a header that carries one."""
    return _TOKEN.search(text) is not None


def looks_random(text: str) -> bool:
    """True if a part of the text is as long and as irregular as the keys of services.

    Lower case, upper case and digits alternate in it about as often as by chance. Words, names of
    models, versions and UUIDs, which are names more often than keys, do not.
    """
    for part in _LONG_PART.findall(text):
        changes = len(_CHANGE.findall(part))
        if changes * 5 >= len(part) and not _UUID.fullmatch(part):
            return True
    return False


def mask(text: str) -> str:
    """The text with every known kind of token, and every user of a URL, as `***`."""
    return _USER.sub("//***@", _TOKEN.sub("***", text))


def resolve(
    api_key: Reference | None,
    base_folder: str | Path = "",
    key: str = "endpoint.api_key",
    *,
    is_line: bool = False,
) -> Secret | None:
    """The credential of a reference, without surrounding blanks; None without a reference.

    Errors call the reference `key`. `is_line`: blanks inside are valid: `Bearer ...`.
    Raises: UsageError if it is unset, empty, readable by others or invalid; never with its text.
    """
    if api_key is None:
        return None
    if api_key.env is not None:
        name = f"environment variable `{printable(mask(api_key.env))}`"
        hint = f"export {printable(mask(api_key.env))}=..."
        text = os.environ.get(api_key.env)
        if text is None:
            raise UsageError(f"{key}: {name} is not set", hint=hint)
    else:
        path = Path(base_folder, api_key.file or "")
        with suppress(RuntimeError):  # there is no such home folder: reading the path names it
            path = path.expanduser()
        name, hint = (
            f"file `{printable(mask(str(path)))}`",
            "put only the key into it",
        )
        text = _private_text(path, name, key)
    text = text.strip()
    if not text:
        raise UsageError(f"{key}: {name} is empty", hint=hint)
    # Not valid in a header: a line end would start another header.
    if not (text.isascii() and text.isprintable()) or (" " in text and not is_line):
        what = "characters" if is_line else "blanks or characters"
        raise UsageError(
            f"{key}: {name} holds {what} that are not valid in a {'header' if is_line else 'key'}",
            hint="one line of ASCII" if is_line else "use the bare key, without `Bearer`",
        )
    return Secret(text)


def _private_text(path: Path, name: str, key: str) -> str:
    """The content of a private file; mode and type are checked on the opened file."""
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UsageError(f"{key}: cannot read {name}: {reason}") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"{key}: {name} is not a regular file")
        if mode & 0o077:
            raise UsageError(
                f"{key}: {name} has mode {stat.S_IMODE(mode):04o}, must be 0600 or stricter",
                hint="chmod 600",
            )
        content = os.read(descriptor, _LARGEST_KEY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{key}: cannot read {name}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > _LARGEST_KEY_BYTES:
        raise UsageError(f"{key}: {name} is larger than {_LARGEST_KEY_BYTES:,} bytes")
    return content.decode("ascii", "replace")
