"""Input files in an S3 bucket: listing, fingerprints and bytes.

A prefix takes the place of a folder, and a HEAD request that of `stat`. Credentials, region and
endpoint come from where the AWS tools take them (environment, profile, the machine's role), never
from a job file; no message repeats them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.addresses import is_loopback
from pipeline.errors import InputError, OutageError, TextmillError, UsageError
from pipeline.source.stores.listing import Entry, files_below, glob_files
from pipeline.source.stores.table import Fingerprint
from pipeline.text import printable

SCHEME = "s3://"
READ_AHEAD_BYTES = 4 << 20
READ_BYTES = 8 << 20
"""A request takes about 50 ms to its first byte, so small requests would be mostly latency."""
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0
ATTEMPTS = 3
"""Attempts of one request, as Amazon recommends: any bucket may answer 503 now and then."""
HEADS_AT_ONCE = 16

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_QUERY = re.compile(r"[?&][A-Za-z_]+=")
_AWAY = re.compile(
    r"NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING"
    r"|curlCode|HTTP status 50\d"
)
_DENIED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|EXPIRED_TOKEN|HTTP status 403")
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def fault_of(path: str) -> str | None:
    """Why no object can have this path; the message never repeats it, since it may hold a key."""
    bucket, _, key = path.removeprefix(SCHEME).partition("/")
    if "@" in bucket or ":" in bucket:
        return "must not hold a user, password or port; AWS_ENDPOINT_URL names another server"
    if _QUERY.search(path):
        return "must not hold a query; region and endpoint come from AWS_REGION, AWS_ENDPOINT_URL"
    if not _BUCKET.fullmatch(bucket):
        return "must be s3://BUCKET/KEY"
    if any(part in (".", "..") for part in key.split("/")):
        return "must not hold `.` or `..` as a part"
    return None


def list_files(path: str) -> tuple[list[str], bool]:
    """The objects that `path` (an object, a prefix or a glob) names, sorted; and whether it is a
    prefix, which may hold any kind of file."""
    name = path.removeprefix(SCHEME)
    with _s3_errors(path):
        (info,) = _filesystem().get_file_info([name.rstrip("/")])
        if info.type == pafs.FileType.File and not name.endswith("/"):
            return [path], False
        if glob.has_magic(name):
            bucket, _, pattern = name.partition("/")
            found = glob_files(_entries, bucket, pattern.split("/"))
            return sorted(SCHEME + key for key in found), False
        return sorted(SCHEME + key for key in files_below(_entries, name.rstrip("/"))), True


def fingerprints(paths: Sequence[str]) -> list[Fingerprint | None]:
    """Size, time of change and ETag of each object; None where it does not exist.

    Cost: one request each, up to 16 at once.
    """
    with _s3_errors(paths[0] if paths else SCHEME), ThreadPoolExecutor(HEADS_AT_ONCE) as threads:
        return list(threads.map(_object_stat, paths))


@contextmanager
def stream(path: str) -> Iterator[Any]:
    """The object's bytes, as a stream from the beginning."""
    with (
        _s3_errors(path),
        _filesystem().open_input_stream(
            path.removeprefix(SCHEME), compression=None, buffer_size=READ_BYTES
        ) as raw,
    ):
        yield raw


def seekable(path: str) -> Any:
    """The object as a seekable file, for Parquet; the caller closes it."""
    with _s3_errors(path):
        return _filesystem().open_input_file(path.removeprefix(SCHEME))


raw_file = seekable


def refusal(path: str, error: BaseException, section: str = "") -> TextmillError:
    """The error for a failed request: an outage has another exit code than a bad input."""
    text = _mask_secrets(str(error))
    where = printable(path, 4096)
    why = printable(text.splitlines()[0] if text else type(error).__name__, 300)
    if "NO_SUCH_BUCKET" in text or "bucket does not exist" in text:
        return UsageError(f"{where}: no such bucket ({why})")
    if _AWAY.search(text):
        return OutageError(
            f"{where}: the bucket cannot be reached ({why})",
            hint="answers so far are kept; run again when it is back",
        )
    if _DENIED.search(text):
        return InputError(
            f"{where}: the bucket denies access ({why})",
            hint="credentials come from where the AWS tools take them: environment, profile, role",
        )
    return InputError(f"{where}: {section} cannot be read ({why})".replace(":  ", ": "))


@contextmanager
def _s3_errors(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise refusal(path, error) from None


def _object_stat(path: str) -> Fingerprint | None:
    try:
        with _filesystem().open_input_stream(path.removeprefix(SCHEME), compression=None) as raw:
            headers = {
                name.lower(): value.decode("latin-1") for name, value in raw.metadata().items()
            }
    except (FileNotFoundError, IsADirectoryError):
        return None
    try:
        modified = int(parsedate_to_datetime(headers["last-modified"]).timestamp())
    except (KeyError, ValueError):
        modified = 0
    # The time is in seconds: two versions of one size may share it, but not the ETag.
    return Fingerprint(
        int(headers.get("content-length") or 0),
        modified * 1_000_000_000,
        etag=headers.get("etag", ""),
    )


def _entries(base: str, deep: bool) -> Iterator[Entry]:
    """The objects and prefixes below `base`; `deep`: at any depth."""
    selector = pafs.FileSelector(base, allow_not_found=True, recursive=deep)
    for info in _filesystem().get_file_info(selector):
        yield Entry(info.path, info.is_file)


def _filesystem() -> Any:
    """The client for the current environment."""
    getenv = os.environ.get
    url = getenv("AWS_ENDPOINT_URL_S3") or getenv("AWS_ENDPOINT_URL") or ""
    return _client(
        url,
        getenv("AWS_REGION") or getenv("AWS_DEFAULT_REGION") or ("us-east-1" if url else ""),
        getenv("AWS_ACCESS_KEY_ID", ""),
        getenv("AWS_PROFILE", ""),
    )


@lru_cache(4)
def _client(url: str, region: str, _key: str, _profile: str) -> Any:
    options: dict[str, Any] = {"region": region} if region else {}
    if url:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            _refuse("AWS_ENDPOINT_URL must be https://HOST, without user or password")
        if parts.path.strip("/") or parts.query:
            _refuse("AWS_ENDPOINT_URL must be https://HOST[:PORT], without a path")
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            _refuse("AWS_ENDPOINT_URL must begin with https://, http:// is for this machine only")
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    return pafs.S3FileSystem(
        connect_timeout=CONNECT_SECONDS,
        request_timeout=IDLE_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **options,
    )


def _refuse(problem: str) -> NoReturn:
    raise UsageError(problem)


def _mask_secrets(text: str) -> str:
    for name in _SECRETS:
        value = os.environ.get(name, "")
        if len(value) >= 8:
            text = text.replace(value, "***")
    return text
