"""What a job may not say, and the one line that says so.

A job file runs unattended and pays: a misspelt key that is ignored, a secret that is printed or an
output that overwrites its input costs more than any refusal. First what concerns one key (type,
bound, name), then URLs, then keys that contradict each other, then paths. No text that looks like
a credential leaves this file: every error passes through `mask`.
"""

from __future__ import annotations

import difflib
import glob
import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from pipeline.errors import UsageError
from pipeline.escape import printable
from pipeline.secret import Reference, looks_secret, mask

if TYPE_CHECKING:
    from jobs.spec import Job

Type = Literal["string", "slug", "integer", "number", "boolean", "strings", "reference"]

_LATER = "is not supported yet in this version"
_LARGEST_NUMBER = 10**12
_LONGEST_STRING = 100_000
_DEEPEST_PARAMETER = 10
_SLUG = re.compile(r"[^\W_][\w-]{0,63}")
_MODEL_IN_PATH = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OWNED = {"input", "inputs", "model", "messages", "stream", "encoding_format", "n"}
_CREDENTIALS = {"api_key", "apikey", "api_token", "access_token", "authorization", "headers",
                "password", "secret"}  # fmt: skip


class Key(NamedTuple):
    """One key of the job file. Bounds are inclusive, but `above`."""

    name: str
    type: Type
    default: Any
    meaning: str
    least: float = 0
    most: float = _LARGEST_NUMBER
    above: float | None = None
    choices: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    def takes(self) -> str:
        """What may stand there, for a reference: `integer, at least 1`."""
        if self.choices:
            return ", ".join(self.choices)
        bounded = self.type in ("integer", "number")
        return f"{self.type}, {self.bound()}" if bounded else self.type

    def bound(self) -> str:
        """The bound in words."""
        most = f"{self.most:,.15g}"
        if self.above is not None:
            at_most = f" and at most {most}" if self.most < _LARGEST_NUMBER else ""
            return f"more than {self.above:g}{at_most}"
        if self.most < _LARGEST_NUMBER:
            return f"between {self.least:g} and {most}"
        return f"at least {self.least:g}"

    def shown_default(self) -> str:
        """The default as TOML, empty where there is none or `meaning` tells it."""
        return "" if self.default is None else shown(self.default).replace(",", "_")


class Places(Struct, frozen=True):
    """Where each value was said, so that an error can name the place."""

    file: str
    typed: dict[str, str]
    """Key to the address on the command line: `--set chunk.size`."""

    def on_command_line(self, key: str) -> str | None:
        """The address of a key, or of the table around it, on the command line."""
        while key:
            if key in self.typed:
                return self.typed[key]
            key = key.rpartition(".")[0]
        return None

    def refuse(self, problem: str, *keys: str, hint: str | None = None) -> UsageError:
        """The error, at the first of the keys that stands on the command line, else at the file."""
        typed = [address for key in keys if (address := self.on_command_line(key))]
        return UsageError(mask(f"{typed[0] if typed else self.file}: {problem}"), hint=hint)

    def wrong(self, key: str, problem: str, hint: str | None = None) -> UsageError:
        """The error about the value of one key, which is named once."""
        named = problem if self.on_command_line(key) else f"{_name(key)} {problem}"
        return self.refuse(named, key, hint=hint)

    def unknown(self, key: str, keys: Sequence[Key]) -> UsageError:
        """The error about a key that does not exist, with the nearest that does."""
        section, _, last = key.rpartition(".")
        near = _near(last, [k.name.rpartition(".")[2] for k in keys if _within(k.name, section)])
        anywhere = {k.name.rpartition(".")[2]: k.name for k in keys}
        near = near or anywhere.get(_near(last, anywhere), "")
        meant = f" (did you mean `{near}`?)" if near else ""
        return self.refuse(f"unknown key `{_name(key)}`{meant}", key)


def shown(value: object) -> str:
    """A value as a job file would say it, short and without secrets; a table only by its kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{printable(mask(value), 60)}"'
        case int() if abs(value) >= 10**18:
            return "a number of more than 18 digits"
        case int() | float():
            return f"{value:,}" if value == value else "nan"
        case dict():
            return "a table"
        case list():
            return "a list"
    return "a date or time"


def unknown(name: str, names: Iterable[str]) -> str:
    """` (did you mean ...?)` for a name that is like one of the names, else nothing."""
    near = _near(name, names)
    return f" (did you mean `{near}`?)" if near else ""


def read_toml(text: str, address: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises: UsageError with the line, and nothing of what it holds."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        problem = f"{address}: nested too deeply"
    except ValueError as error:
        # The parser's own words can quote the text, and with it a key.
        at = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        where = f"column {at[2]}" if at else "the end"
        problem = f"{address}:{line}: not TOML, at {where}"
    raise UsageError(problem)


def read_value(raw: str, type_: str, key: str, places: Places) -> object:
    """What a text on the command line says for a key of this type; a bare word is a string."""
    quoted = raw[:1] in ('"', "'")
    if type_ in ("string", "slug") and not quoted:
        return raw
    if type_ == "strings" and raw[:1] != "[":
        return [name.strip() for name in raw.split(",")]
    tree: dict[str, Any] = {}
    try:
        tree = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        if not quoted and raw[:1] not in ("[", "{"):
            return raw
    if list(tree) != ["value"]:
        raise places.wrong(key, "is not a TOML value")
    return tree["value"]


def check(
    tree: dict[str, Any], keys: Sequence[Key], later: frozenset[str], places: Places
) -> dict[str, Any]:
    """What was given, by full key, and `parameters` as a table; nothing is filled in.

    Raises: UsageError for the first key that is unknown, not supported yet, of another type or out
    of its bounds.
    """
    known = {key.name: key for key in keys}
    sections = {name[:at] for name in known for at in range(len(name)) if name[at] == "."}
    given: dict[str, Any] = {"parameters": {}}

    def walk(table: dict[str, Any], prefix: str) -> None:
        for last, value in table.items():
            name = f"{prefix}{last}" if "." not in last else f'{prefix}"{last}"'
            if name in later:
                tables = {"rule": "[[rule]]"} | {n: f"[{n}]" for n in ("notify", "quota", "policy")}
                plain = tables.get(name, name.removeprefix("endpoint."))
                raise places.refuse(f"`{plain}` {_LATER}", name)
            if name in sections and not isinstance(value, dict):
                raise places.wrong(name, f"must be a table, got {_safe(name, value)}")
            if name == "parameters":
                given[name] = value
                _check_parameters(value, known["parameters.prompt"], places)
            elif name in sections:
                walk(value, f"{name}.")
            elif name in known:
                given[name] = _checked(known[name], value, places)
            else:
                raise places.unknown(name, keys)

    walk(tree, "")
    return given


def refuse_secrets(tree: dict[str, Any], places: Places) -> None:
    """Refuses a job in which a name or a value looks like a credential."""
    # A stack, not recursion: a file can nest deeper than Python does. Below 30 `check` refuses.
    stack: list[tuple[str, int, object]] = [("", 0, tree)]
    while stack:
        name, depth, value = stack.pop()
        if looks_secret(name) or (isinstance(value, str) and looks_secret(value)):
            raise places.refuse(
                f"`{_name(name)}` looks like a secret, which a job must not hold",
                name,
                hint='name where it lies: api_key = { env = "NAME" }',
            )
        if depth < 30 and isinstance(value, dict):
            stack += [(f"{name}.{k}" if name else k, depth + 1, v) for k, v in value.items()]
        elif depth < 30 and isinstance(value, list):
            stack += [(name, depth + 1, child) for child in value]


def served_url(kind: str, url: str | None, default: str | None, places: Places) -> str:
    """The base URL without a slash at its end; empty for kind local."""
    key = "endpoint.url"
    if kind == "local":
        if url is not None:
            raise places.wrong(key, "is not used by kind local")
        return ""
    if url is None:
        if default is None:
            raise places.refuse(
                f"`{key}` is missing, kind {kind} has no usual one", hint="--url URL"
            )
        return default
    # Nothing of the URL but its checked host is repeated: it may hold a password.
    if "@" in re.split(r"[/?#\\]", url.split("//", 1)[-1], maxsplit=1)[0]:
        raise places.wrong(key, "must not hold a user or password", "use endpoint.api_key")
    if re.search(r"[\s\\]", url) or not url.isascii():
        raise places.wrong(key, "must be ASCII without blanks or backslashes")
    parts = _split(url)
    if parts is None:
        raise places.wrong(key, "is not a URL")
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https"):
        raise places.wrong(key, "must begin with https://, or http:// for this machine")
    if "?" in url or "#" in url:
        raise places.wrong(key, "must not hold a query or fragment (`?`, `#`)")
    if parts.port == 0 or not _AUTHORITY.fullmatch(parts.netloc):
        raise places.wrong(key, "has no valid host and port")
    if parts.scheme == "http" and not _is_loopback(host):
        raise places.wrong(
            key, f"must begin with https://, http:// is for this machine only, got host `{host}`"
        )
    if re.search(r"/\.\.?(/|$)", parts.path) or "%" in parts.path:
        raise places.wrong(key, "must be a plain path, without `..` or `%`")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}".rstrip("/")


def refuse_relations(job: Job, tasks: Sequence[str], places: Places) -> None:
    """Refuses keys that are right alone and contradict each other."""
    endpoint, chunk = job.endpoints[0], job.chunk
    embeds, kind = job.task == "feature-extraction", endpoint.kind
    if job.task not in tasks:
        raise places.refuse(
            f'endpoint.kind = "{kind}" does not serve task = "{job.task}", only '
            + ", ".join(tasks),
            "task",
            "endpoint.kind",
        )
    if chunk.overlap >= chunk.size:
        raise places.refuse(
            f"chunk.overlap = {chunk.overlap:,} tokens must be smaller than "
            f"chunk.size = {chunk.size:,} tokens",
            "chunk.overlap",
            "chunk.size",
        )
    if endpoint.max_input_tokens is not None and chunk.size > endpoint.max_input_tokens:
        raise places.refuse(
            f"chunk.size = {chunk.size:,} tokens must not be more than "
            f"endpoint.max_input_tokens = {endpoint.max_input_tokens:,} tokens",
            "chunk.size",
            "endpoint.max_input_tokens",
        )
    if endpoint.model is None and kind not in ("local", "tei"):
        raise places.refuse("`endpoint.model` is missing", hint="--model NAME")
    if kind == "hf" and not _MODEL_IN_PATH.fullmatch(endpoint.model or ""):
        raise places.wrong(
            "endpoint.model", f"must be a name like owner/model, got {shown(endpoint.model)}"
        )
    if endpoint.provider is not None and kind != "hf":
        raise places.wrong("endpoint.provider", f"is not used by kind {kind}")
    if endpoint.api_key is not None and kind == "local":
        raise places.wrong("endpoint.api_key", "is not used by kind local")
    if job.task == "chat-completion" and job.prompt is None:
        raise places.refuse(
            "`parameters.prompt` is missing, task chat-completion needs one",
            hint='prompt = "... {chunk} ..."',
        )
    if job.prompt is not None and (embeds or kind == "local"):
        whom = f"task {job.task}" if embeds else "kind local"
        raise places.wrong("parameters.prompt", f"is not used by {whom}")
    if job.task == "chat-completion" and endpoint.batch_size != 1:
        raise places.wrong(
            "endpoint.batch_size", f"must be 1 for chat-completion, got {endpoint.batch_size:,}"
        )
    if job.aggregate.method == ("text" if embeds else "mean"):
        raise places.refuse(
            f'aggregate.method = "{job.aggregate.method}" does not fit task = "{job.task}"',
            "aggregate.method",
            "task",
            hint="rows or mean" if embeds else "rows or text",
        )


def refuse_paths(job: Job, output_as_typed: str, places: Places) -> None:
    """Refuses an output that would leave its place, or destroy or become the input.

    Looks at the file system, opens and changes nothing. An input directory is taken as read at
    any depth.
    """
    read, written, key = job.input.path, job.output.path, "output.path"
    for name, path in (("input.path", read), (key, written)):
        # One slash is left of two where the path was joined to a folder.
        if scheme := re.search(r"(?:^|/)([A-Za-z][A-Za-z0-9+.-]+):/", path):
            later = scheme[1].lower() in ("s3", "hf") and name == "input.path"
            if later:
                raise places.refuse(f"{name} = {scheme[1]}://... {_LATER}", name)
            raise places.wrong(name, "must be a path of this machine, not a URL")
    if written == "-":
        return
    try:
        _refuse_output(job, output_as_typed, places)
    except OSError as error:
        raise places.wrong(key, f"cannot be looked at: {error.strerror}") from None


def _refuse_output(job: Job, output_as_typed: str, places: Places) -> None:
    read, written, key = job.input.path, job.output.path, "output.path"
    output, got = Path(written), f"got {shown(output_as_typed)}"
    data = output.suffix in (".parquet", ".jsonl")
    slash = output_as_typed.endswith("/")
    if output.name in ("", "..", ".parquet", ".jsonl"):
        raise places.wrong(key, f"must end in a name, {got}")
    if (data and slash) or (output.suffix and not data and not slash):
        hint = (
            None if data else "a directory with a dot in its name is given with a slash at its end"
        )
        raise places.wrong(key, f"must end in .parquet or .jsonl, or be a directory, {got}", hint)
    real = os.path.join(os.path.realpath(output.parent), output.name)  # noqa: PTH118
    typed = places.on_command_line(key) or output_as_typed.startswith("/")
    if not typed and not _within_folder(real, os.path.realpath(job.folder)):
        raise places.wrong(key, f"leaves the folder of the job file, {got}", "give it with -o")
    if output.is_symlink():
        versions = os.path.realpath(f"{real}.run/versions")
        if data or not _within_folder(os.path.realpath(output), versions):
            raise places.wrong(key, f"is a symbolic link, {got}")
    elif output.exists() and not (output.is_file() if data else output.is_dir()):
        raise places.wrong(key, f"exists and is no {'file' if data else 'directory'}, {got}")
    if _in_run_folder(Path(real)) or _within_folder(real, os.path.realpath(f"{real}.run")):
        raise places.wrong(key, f"lies in a run folder, {got}")
    if read == "-":
        return
    both, source = (key, "input.path"), shown(read)
    if os.path.realpath(read) == real or any(_same(output, path) for path in _files(read, output)):
        raise places.refuse(f"output.path is the input, {source}", *both)
    matched = glob.glob(read, recursive=True) if glob.has_magic(read) else [read]  # noqa: PTH207
    if not data and any(_within_folder(os.path.realpath(path), real) for path in matched):
        raise places.refuse(f"output.path is a directory that holds the input, {source}", *both)
    if _would_be_read(Path(real), read):
        problem = f"output.path lies where input.path = {source} would read it the next time, {got}"
        raise places.refuse(problem, *both)


def _checked(key: Key, value: Any, places: Places) -> Any:
    """The value, in the type that the record holds."""

    def wrong(problem: str) -> UsageError:
        return places.wrong(key.name, f"{problem}, got {_safe(key.name, value)}")

    number = isinstance(value, int | float) and not isinstance(value, bool)
    match key.type:
        case "integer" | "number":
            if not number or (key.type == "integer" and isinstance(value, float)):
                raise wrong(f"must be {'an integer' if key.type == 'integer' else 'a number'}")
            if not -math.inf < value < math.inf:
                raise wrong("must be a finite number")
            low = value <= key.above if key.above is not None else value < key.least
            if value > key.most == _LARGEST_NUMBER:
                raise wrong(f"must be at most {_LARGEST_NUMBER:,}")
            if low or value > key.most:
                raise wrong(f"must be {key.bound()}")
            return float(value) if key.type == "number" else value
        case "boolean":
            if not isinstance(value, bool):
                raise wrong("must be true or false")
            return value
        case "strings":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise wrong("must be a list of strings")
            for name in value:
                _check_string(key, name, places)
            if len(set(value)) < len(value):
                raise places.wrong(key.name, "names a column twice")
            return tuple(value)
        case "reference":
            return _reference(key.name, value, places)
    if not isinstance(value, str):
        raise wrong("must be a string")
    _check_string(key, value, places)
    return value


def _check_string(key: Key, value: str, places: Places) -> None:
    if key.choices and value not in key.choices:
        if value in key.later:
            raise places.refuse(f'{key.name} = "{value}" {_LATER}', key.name)
        meant = unknown(value, key.choices)
        listed = ", ".join(key.choices)
        raise places.wrong(key.name, f"must be one of {listed}, got {shown(value)}{meant}")
    if not value.strip():
        raise places.wrong(key.name, "must not be empty")
    if len(value) > _LONGEST_STRING:
        raise places.wrong(key.name, f"must be at most {_LONGEST_STRING:,} characters")
    text = re.sub(r"[\t\n\r]", "", value) if key.name == "parameters.prompt" else value
    if _CONTROL.search(text):
        raise places.wrong(
            key.name, f"must not hold control characters, got {_safe(key.name, value)}"
        )
    if key.type == "slug" and not _SLUG.fullmatch(value):
        raise places.wrong(
            key.name,
            "must be 1 to 64 letters, digits, `-` or `_`, a letter or digit first, "
            f"got {shown(value)}",
        )


def _reference(name: str, value: object, places: Places) -> Reference:
    """Where the key lies. No error repeats any part of the value: it may be the key itself."""
    hint = 'api_key = { env = "NAME" } or { file = "path" }'
    if not isinstance(value, dict):
        raise places.wrong(name, "must be a reference, never the key itself", hint)
    if len(value) != 1 or not set(value) <= {"env", "file"}:
        raise places.wrong(name, "must hold exactly one of `env` and `file`", hint)
    [(where, said)] = value.items()
    if not isinstance(said, str) or not said or _CONTROL.search(said):
        raise places.wrong(f"{name}.{where}", "must be a name without control characters", hint)
    if where == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", said):
        raise places.wrong(f"{name}.{where}", "must be the name of an environment variable", hint)
    return Reference(**value)


def _check_parameters(table: dict[str, Any], prompt: Key, places: Places) -> None:
    """Refuses what the pipeline sets itself, and what no JSON body can carry."""
    for name, value in table.items():
        full = f"parameters.{name}"
        if name == "prompt":
            _checked(prompt, value, places)
        elif name in _OWNED:
            raise places.refuse(f"`{_name(full)}` is set by textmill itself", full)
        elif name.lower().replace("-", "_") in _CREDENTIALS:
            raise places.refuse(
                f"`{_name(full)}` is no place for a credential", full, hint="use endpoint.api_key"
            )
        elif _CONTROL.search(name):
            raise places.refuse(f"`{_name(full)}` must not hold control characters", full)
        for where, problem in _not_json(full, value, _DEEPEST_PARAMETER):
            raise places.wrong(where, problem)


def _not_json(name: str, value: object, depth: int) -> Iterator[tuple[str, str]]:
    """Which values cannot be sent, and why."""
    match value:
        case dict() | list() if depth == 0:
            yield name, f"must not be nested deeper than {_DEEPEST_PARAMETER}"
        case dict():
            for key, child in value.items():
                yield from _not_json(f"{name}.{key}", child, depth - 1)
        case list():
            for child in value:
                yield from _not_json(name, child, depth - 1)
        case bool():
            pass
        case int():
            if not -(2**63) <= value < 2**63:
                yield name, "must fit in 64 bits"
        case float():
            if not math.isfinite(value):
                yield name, f"must be a finite number, got {shown(value)}"
        case str():
            if re.search("[\ud800-\udfff]", value):
                yield name, "must be Unicode text"
        case _:
            sort = "must be text, a number, true, false, a list or a table"
            yield name, f"{sort}, got {shown(value)}"


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None instead of an exception, whose text would quote it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    """True for this machine only; short forms (`127.1`) that parsers read differently are not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _files(path: str, output: Path) -> Iterator[str]:
    """The files that an input path names now; none while there is no output to compare with."""
    if not output.exists():
        return
    yield path
    if _is_folder(path):
        for folder, _, names in os.walk(path):
            yield from (f"{folder}/{name}" for name in names)
    elif glob.has_magic(path):
        yield from glob.iglob(path, recursive=True)  # noqa: PTH207 - it may be absolute


def _would_be_read(output: Path, path: str) -> bool:
    """True where a resolved `output` would be among the inputs, though it need not exist yet."""
    if _is_folder(path):
        return _within_folder(str(output), os.path.realpath(path))
    if not glob.has_magic(path):
        return False
    parts = Path(path).parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    base = os.path.realpath(Path(*parts[:fixed]))
    below = Path(os.path.relpath(output, base)).parts
    # Links below the fixed part lead elsewhere: compare the folders that are matched now, too.
    folders = glob.iglob(str(Path(path).parent), recursive=True)  # noqa: PTH207
    return _matches(below, parts[fixed:]) or (
        fnmatchcase(output.name, parts[-1])
        and str(output.parent) in {os.path.realpath(folder) for folder in folders}
    )


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """True where a path, or a folder around it, fits a glob pattern, both given in parts.

    Cost: O(parts x pattern), whatever the number of `**`.
    """

    def closed(reached: set[int]) -> set[int]:
        for at in range(len(pattern)):
            if at in reached and pattern[at] == "**":
                reached.add(at + 1)
        return reached

    reached = closed({0})
    for part in parts:
        if len(pattern) in reached:
            break
        stay = {at for at in reached if pattern[at] == "**"}
        reached = closed(stay | {at + 1 for at in reached - stay if fnmatchcase(part, pattern[at])})
    return len(pattern) in reached


def _within_folder(path: str, folder: str) -> bool:
    """True where the path is the folder or lies in it; both are resolved."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _in_run_folder(path: Path) -> bool:
    """True where a folder around the path is one that a run keeps its parts in."""
    return any(
        folder.suffix == ".run"
        and (folder.stem.endswith((".parquet", ".jsonl")) or (folder / "runs").is_dir())
        for folder in path.parents
    )


def _is_folder(path: str) -> bool:
    """True for a directory; an input that cannot be looked at is for the survey to report."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _same(one: Path, other: str) -> bool:
    """True for one file under two names, hard and symbolic links included."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _name(key: str) -> str:
    return printable(mask(key), 80)


def _safe(key: str, value: object) -> str:
    """The value for an error, or only its kind where it may be a credential or hold one."""
    private = "api_key" in key or "url" in key
    return "a string" if private and isinstance(value, str) else shown(value)


def _near(name: str, names: Iterable[str]) -> str:
    # Cut, because the comparison is quadratic.
    return (difflib.get_close_matches(name[:64], list(names), 1) or [""])[0]


def _within(name: str, section: str) -> bool:
    """True for a key that stands directly in the section."""
    return name.rpartition(".")[0] == section
