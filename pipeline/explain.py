"""Why a row's answers are there, or why they would have to be paid for.

A key is a hash and cannot be read backwards. But every prefix that was ever asked for is remembered
beside the answers, so the same input is looked up under each of them: what is found there tells
which part of the key is another. Where the input itself is new, the manifest of the last committed
run tells what shaped it otherwise, and its output whether the row was there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from pipeline.cache.keys import key_function, parts_of, prefix
from pipeline.cache.lookup import look_up
from pipeline.cache.store import AnswerCache
from pipeline.plan import with_cached_identities
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.long_documents import PreparedDocument
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.prompts import chunk_text
from pipeline.prepare.requests import prepare_document, split
from pipeline.records import Document, Endpoint, Request, Split
from pipeline.source import identity

PREFIXES = 1_000
"""Of so many, the latest, one is looked for."""
AT_ONCE = 512

State = Literal["cached", "missing", "damaged"]


class Difference(Struct, frozen=True):
    """A part of a key, or what shapes an input, then and now; None: not said."""

    name: str
    before: Any
    now: Any


class ChunkReport(Struct, frozen=True):
    """One request of the row. `differs` holds what keeps the nearest earlier answer from being
    this one's; `failure` is what the last run's `failures.jsonl` says of it."""

    chunk: int
    start_char: int
    end_char: int
    tokens: int
    key: str
    state: State
    why: str | None = None
    differs: list[Difference] = []
    failure: dict[str, Any] | None = None


class RowReport(Struct, frozen=True):
    """What there is to say of a row. `changed`: what shapes inputs, since the last committed run;
    None where no run has committed."""

    id: Any
    identity: str
    address: str
    error: str | None
    changed: list[Difference] | None
    is_in_output: bool
    chunks: list[ChunkReport]


class LastCommit(Struct, frozen=True):
    """What is known of earlier runs of the same output."""

    manifest: Mapping[str, Any] | None = None
    """Of the last run that committed."""
    failures: Sequence[Mapping[str, Any]] = ()
    """Of this row, in the last run."""
    chunk_ids: set[str] | None = None
    """Of this row in the output that stands; None: it is not there."""


class _PrefixSummary(Struct, frozen=True):
    """A prefix, its parts, and the positions of the endpoints that it stands for."""

    prefix: bytes
    parts: dict[str, Any]
    positions: frozenset[int]


def explain(
    pipeline: Pipeline, document: Document, cache: AnswerCache | None, past: LastCommit
) -> RowReport:
    """The row, each of its requests, and why it is missing where it is. Sends nothing."""
    factory = RequestFactory(pipeline, with_cached_identities(pipeline, cache))
    keys, endpoints = factory.keys, factory.endpoints
    whole = _with_pieces(factory, prepare_document(factory, document), cache)
    asked = _asked(endpoints, cache)
    changed = _changed(pipeline, endpoints, past.manifest)
    failed = {(f.get("start_char"), f.get("end_char")): dict(f) for f in past.failures}
    seen: Counter[str] = Counter()
    chunks: list[ChunkReport] = []
    for start in range(0, len(whole.requests), AT_ONCE):
        some = whole.requests[start : start + AT_ONCE]
        found = look_up(cache, keys, some) if cache else {}
        missing = [request for request in some if request.dedup_key not in found]
        nearest = _nearest(missing, asked, cache)
        for at, request in enumerate(some, start):
            text = chunk_text(whole.document, request.chunk)
            name = identity.chunk_id(document.identity, text.encode(), seen[text])
            seen[text] += 1
            span = (request.chunk.start_char, request.chunk.end_char)
            failure = failed.get(span)
            state: State = "cached" if request.dedup_key in found else "missing"
            differs: list[Difference] = []
            why = None
            if state == "missing" and cache is not None and cache.contains(request.key):
                state, why = "damaged", "it will be asked for again"
            elif state == "missing" and failure is not None:
                why = f"failed in the last run: {failure.get('reason')}"
            elif state == "missing":
                near = nearest.get(request.dedup_key)
                differs = near[0] if near else []
                why = near[1] if near else _why_new(changed, past, name)
            key = request.key.hex()[:12]
            chunks.append(ChunkReport(at, *span, request.tokens, key, state, why, differs, failure))
    return RowReport(
        document.id,
        document.identity.hex(),
        document.address,
        whole.document.error,
        changed,
        past.chunk_ids is not None,
        chunks,
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What is not the same, in the order of `now`, then what only `before` has."""
    names = [*now, *(name for name in before if name not in now)]
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    ]


def _why_new(changed: list[Difference] | None, past: LastCommit, name: str) -> str:
    if changed:
        return "the input is new: it is made otherwise than in the last committed run"
    if past.chunk_ids is None:
        if changed is None:
            return "never answered, and no run of this output has committed"
        return "a new row"
    if name in past.chunk_ids:
        return "in the output, but its answer is gone: pruned, or kept in another TEXTMILL_HOME"
    return "the text changed, or a column that the prompt reads"


def _changed(
    pipeline: Pipeline, endpoints: Sequence[Endpoint], manifest: Mapping[str, Any] | None
) -> list[Difference] | None:
    """What shapes inputs and keys, then and now."""
    if manifest is None:
        return None
    input_settings = manifest.get("input_settings")
    found = (
        differences(input_settings, pipeline.input_settings)
        if isinstance(input_settings, dict)
        else []
    )
    prefixes = manifest.get("prefixes")
    if not isinstance(prefixes, list):
        return found
    before = [parts_of(msgspec.json.encode(each, order="sorted")) or {} for each in prefixes]
    now = [parts_of(prefix(endpoint)) or {} for endpoint in endpoints]
    if len(before) == len(now):
        for then, each in zip(before, now, strict=True):
            found += [d for d in differences(then, each) if d not in found]
    else:
        models = [[each.get("endpoint.model") for each in side] for side in (before, now)]
        found.append(Difference("endpoint", *models))
    return found


def _asked(endpoints: Sequence[Endpoint], cache: AnswerCache | None) -> list[_PrefixSummary]:
    """What these endpoints are asked, then what else was ever asked, the latest first."""
    own: dict[bytes, set[int]] = {}
    for position, endpoint in enumerate(endpoints):
        own.setdefault(prefix(endpoint), set()).add(position)
    known = reversed(cache.prefixes()[-PREFIXES:] if cache else [])
    found = dict.fromkeys([*own, *known])
    return [
        _PrefixSummary(each, parts, frozenset(own.get(each, ())))
        for each in found
        if (parts := parts_of(each)) is not None
    ]


def _nearest(
    requests: Sequence[Request], asked: Sequence[_PrefixSummary], cache: AnswerCache | None
) -> dict[bytes, tuple[list[Difference], str]]:
    """By flight: what the nearest prefix that has an answer says otherwise, and in words."""
    nearest: dict[bytes, tuple[list[Difference], str]] = {}
    if cache is None or not requests:
        return nearest
    for other in asked:  # of equally near ones the first
        key = key_function(other.prefix)
        keys = [key(request.input) for request in requests]
        found = cache.get_many(keys)
        for request, each in zip(requests, keys, strict=True):
            if each not in found or other.positions & set(request.route.positions):
                continue
            mine = [one.parts for one in asked if one.positions & set(request.route.positions)]
            differs = min((differences(other.parts, parts) for parts in mine), key=len)
            known = nearest.get(request.dedup_key)
            if known is None or len(differs) < len(known[0]):
                barred = "answered by an endpoint that the job's rules keep from this row"
                why = barred if other.positions else "answered under another key"
                nearest[request.dedup_key] = (differs, why)
    return nearest


def _with_pieces(
    factory: RequestFactory, whole: PreparedDocument, cache: AnswerCache | None
) -> PreparedDocument:
    """With pieces in the place of what was found to be too long for the model."""
    unsplittable: set[bytes] = set()
    while cache is not None:
        found = look_up(cache, factory.keys, whole.requests)
        split_ones = {name for name, each in found.items() if isinstance(each.settled, Split)}
        if not split_ones - unsplittable:
            break
        whole, _, rest = split(factory, whole, split_ones - unsplittable)
        unsplittable |= {request.dedup_key for request in rest}
    return whole
