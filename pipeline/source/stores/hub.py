"""Datasets of the Hugging Face Hub: `hf://datasets/OWNER/NAME[@REVISION]/PATH`.

The revision is looked up once, so both passes read one commit, whatever is pushed meanwhile. The
library (the extra `hf`) finds the token and lists files; the bytes come over `HttpFile`. It sends
the token to the Hub only, not to the servers of files that the Hub redirects to.
"""

from __future__ import annotations

import glob
import io
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast
from urllib.parse import quote, unquote

from pipeline.errors import InputError, OutageError, TextmillError, UsageError
from pipeline.source.stores import http_file
from pipeline.source.stores.http_file import HttpFile, Source, Version, is_allowed
from pipeline.source.stores.listing import Entry, files_below, glob_files
from pipeline.source.stores.table import Fingerprint
from pipeline.source.stores.web import READ_AHEAD_BYTES, WINDOW_BYTES, refusal
from pipeline.text import printable, reason, shown

__all__ = ["READ_AHEAD_BYTES", "refusal"]

T = TypeVar("T")
_DATASETS = "hf://datasets/"
_PATH = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)
_AWAY = (408, 429, 500, 502, 503, 504)


class _Place(NamedTuple):
    root: str
    """The dataset with its revision as the user wrote it."""
    repo: str
    revision: str | None
    path: str


_commits: dict[str, str] = {}
"""The commit of each root."""
_figures: dict[str, Fingerprint] = {}


def fault_of(path: str) -> str | None:
    """Why no file can have this path."""
    if _PATH.fullmatch(path) is None:
        return "must be hf://datasets/OWNER/NAME[@REVISION]/PATH"
    if any(part in (".", "..") for part in path.removeprefix(_DATASETS).split("/")):
        return "must not hold `.` or `..` as a part"
    return None


def list_files(path: str) -> tuple[list[str], bool]:
    """The files that `path` (a file, a folder or a glob) names at the newest commit of its
    revision, sorted; and whether it is a folder."""
    place = _parse(path)
    info = _ask(path, lambda api: api.dataset_info(place.repo, revision=place.revision))
    _commits[place.root] = info.sha
    inner = place.path.rstrip("/")
    if glob.has_magic(inner):
        return sorted(glob_files(_entries, place.root, inner.split("/"))), False
    found = _paths_info(path, place, [inner]) if inner else []
    if found and hasattr(found[0], "blob_id"):
        return [path], False
    if inner and not found:
        raise UsageError(f"{shown(path)}: no such file")
    return sorted(files_below(_entries, f"{place.root}/{inner}".rstrip("/"))), True


def fingerprints(paths: Sequence[str]) -> list[Fingerprint | None]:
    """Size and content hash of each file at the commit that is read; None where it does not
    exist."""
    for path in paths:
        if path not in _figures:
            place = _parse(path)
            for each in _paths_info(path, place, [place.path]):
                _note(place.root, each)
    return [_figures.get(path) for path in paths]


@contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """The file's bytes from its beginning."""
    with _opened(path, None) as raw:
        yield cast("BinaryIO", raw)


def seekable(path: str) -> Any:
    """The file as a seekable stream, for Parquet; the caller closes it."""
    return io.BufferedReader(_opened(path, WINDOW_BYTES), WINDOW_BYTES)


raw_file = seekable


def _opened(path: str, window: int | None) -> HttpFile:
    place = _parse(path)
    token = _library().get_token()
    url = f"{_endpoint()}/datasets/{place.repo}/resolve/{_commits[place.root]}/{quote(place.path)}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return HttpFile(Source(url, path, headers), Version(_figures[path].size), window)


def _parse(path: str) -> _Place:
    match = _PATH.fullmatch(path)
    assert match is not None
    inner = match["path"] or ""
    root = path[: len(path) - len(inner)].rstrip("/")
    revision = match["revision"]
    return _Place(root, match["repo"], revision and unquote(revision), inner)


def _entries(base: str, deep: bool) -> Iterator[Entry]:
    """The files and folders below `base`; `deep`: at any depth."""
    place = _parse(base)

    def listed(api: Any) -> list[Any]:
        tree = api.list_repo_tree(
            place.repo,
            place.path or None,
            recursive=deep,
            revision=_commits[place.root],
            repo_type="dataset",
        )
        return list(tree)

    for each in _ask(base, listed):
        _note(place.root, each)
        yield Entry(f"{place.root}/{each.path}", hasattr(each, "blob_id"))


def _paths_info(path: str, place: _Place, inner: list[str]) -> list[Any]:
    commit = _commits[place.root]
    return _ask(
        path,
        lambda api: list(
            api.get_paths_info(place.repo, inner, revision=commit, repo_type="dataset")
        ),
    )


def _note(root: str, each: Any) -> None:
    if hasattr(each, "blob_id"):
        content = each.lfs.sha256 if each.lfs is not None else each.blob_id
        _figures[f"{root}/{each.path}"] = Fingerprint(each.size, 0, etag=content)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            "input.path: hf:// needs the extra `hf`", hint="pip install 'textmill[hf]'"
        ) from None
    return huggingface_hub


def _endpoint() -> str:
    url = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not is_allowed(url) or "@" in url:
        raise UsageError("HF_ENDPOINT must begin with https://, http:// is for this machine only")
    return url


def _ask(path: str, question: Callable[[Any], T]) -> T:
    """What the Hub answers. Raises: UsageError for what it does not have, InputError where it
    denies access, OutageError."""
    library = _library()
    api = library.HfApi(endpoint=_endpoint(), token=library.get_token() or False)
    errors = library.errors
    where = shown(path)
    for attempt in range(http_file.ATTEMPTS):
        if attempt:
            time.sleep(http_file.PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            return question(api)
        except errors.GatedRepoError:
            raise _denied(where) from None
        except errors.RepositoryNotFoundError:
            raise UsageError(
                f"{where}: no such dataset, or it is private",
                hint="a private one needs HF_TOKEN, or `hf auth login`",
            ) from None
        except errors.RevisionNotFoundError:
            raise UsageError(f"{where}: the dataset has no such revision") from None
        except errors.EntryNotFoundError:
            raise UsageError(f"{where}: no such file") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise _denied(where) from None
            if status not in _AWAY:
                raise InputError(f"{where}: cannot be listed (HTTP {status})") from None
            problem = f"HTTP {status}"
        except Exception as error:
            # The library has changed its HTTP client before; this name is common to both.
            if not any(each.__name__ == "TransportError" for each in type(error).__mro__):
                raise InputError(f"{where}: cannot be listed ({reason(error)})") from None
            problem = printable(str(error), 200) or type(error).__name__
    raise OutageError(
        f"{where}: the Hub cannot be reached ({problem})",
        hint="answers so far are kept; run again when it is back",
    )


def _denied(where: str) -> TextmillError:
    return InputError(
        f"{where}: the Hub denies access", hint="accept its terms there, and check HF_TOKEN"
    )
