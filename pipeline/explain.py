"""Explains why the answers of a row are cached, or why they would have to be paid for.

A key is a hash and cannot be inverted. But the cache keeps every key prefix that was ever used, so
the same input is looked up under each of them: a hit shows which part of the key differs. If the
input itself is new, the manifest of the last committed run shows which settings changed it, and the
output shows whether the row existed.
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
from pipeline.comparisons import ForeignAnswers
from pipeline.plan import with_cached_identities
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.long_documents import PreparedDocument
from pipeline.prepare.pipeline import Pipeline, settings_in_effect
from pipeline.prepare.prompts import chunk_text
from pipeline.prepare.requests import prepare_document, split
from pipeline.records import Document, Endpoint, Request, Split
from pipeline.source import identity

MAX_PREFIXES = 1_000
"""Number of prefixes that are searched, the latest ones."""
BATCH_REQUESTS = 512

State = Literal["cached", "missing", "damaged"]


class Difference(Struct, frozen=True):
    """A part of a key or a setting of an input, before and now; None: not recorded."""

    name: str
    before: Any
    now: Any


class ChunkReport(Struct, frozen=True):
    """One request of the row. `differs` holds the differences from the nearest earlier answer;
    `failure` is its record in the `failures.jsonl` of the last run."""

    chunk: int
    start_char: int
    end_char: int
    tokens: int
    key: str
    state: State
    why: str | None = None
    differs: list[Difference] = []
    failure: dict[str, Any] | None = None
    answered_by: str | None = None
    """The server that gave the cached answer; None if the key alone names its model."""


class RowReport(Struct, frozen=True):
    """The report of a row. `changed`: settings of inputs that changed since the last committed run;
    None if no run has committed."""

    id: Any
    identity: str
    address: str
    error: str | None
    changed: list[Difference] | None
    is_in_output: bool
    chunks: list[ChunkReport]


class LastCommit(Struct, frozen=True):
    """The facts about earlier runs of the same output."""

    manifest: Mapping[str, Any] | None = None
    """Manifest of the last run that committed."""
    failures: Sequence[Mapping[str, Any]] = ()
    """Failures of this row in the last run."""
    chunk_ids: set[str] | None = None
    """Chunk ids of this row in the published output; None: the row is not in it."""


class _PrefixSummary(Struct, frozen=True):
    """A key prefix, its parts, and the positions of the endpoints that use it."""

    prefix: bytes
    parts: dict[str, Any]
    positions: frozenset[int]


def explain(
    pipeline: Pipeline, document: Document, cache: AnswerCache | None, last: LastCommit
) -> RowReport:
    """The report of a row: each request, and the reason for each missing one. Sends nothing."""
    factory = RequestFactory(pipeline, with_cached_identities(pipeline, cache))
    keys, endpoints = factory.keys, factory.endpoints
    whole = _with_pieces(factory, prepare_document(factory, document), cache)
    prefixes, foreign = _prefix_summaries(endpoints, cache), ForeignAnswers(factory, cache)
    changed = _changed_settings(pipeline, endpoints, last.manifest)
    failed = {(f.get("start_char"), f.get("end_char")): dict(f) for f in last.failures}
    occurrences: Counter[str] = Counter()
    chunks: list[ChunkReport] = []
    for start in range(0, len(whole.requests), BATCH_REQUESTS):
        batch = whole.requests[start : start + BATCH_REQUESTS]
        stored = look_up(cache, keys, batch) if cache else {}
        missing = [request for request in batch if request.dedup_key not in stored]
        nearest = _nearest_answers(missing, prefixes, cache)
        for at, request in enumerate(batch, start):
            text = chunk_text(whole.document, request.chunk)
            chunk_id = identity.chunk_id(document.identity, text.encode(), occurrences[text])
            occurrences[text] += 1
            span = (request.chunk.start_char, request.chunk.end_char)
            failure = failed.get(span)
            state: State = "cached" if request.dedup_key in stored else "missing"
            differs: list[Difference] = []
            why, answered_by = None, ""
            if state == "cached":
                answered_by, is_foreign = foreign.server(stored[request.dedup_key])
                why = f"answered by {answered_by}, not by this endpoint" if is_foreign else None
            if state == "missing" and cache is not None and cache.contains(request.key):
                state, why = "damaged", "it will be requested again"
            elif state == "missing" and failure is not None:
                why = f"failed in the last run: {failure.get('reason')}"
            elif state == "missing":
                hit = nearest.get(request.dedup_key)
                differs = hit[0] if hit else []
                why = hit[1] if hit else _reason_new(changed, last, chunk_id)
            key = request.key.hex()[:12]
            figures = (*span, request.tokens, key, state, why, differs, failure)
            chunks.append(ChunkReport(at, *figures, answered_by or None))
    return RowReport(
        document.id,
        document.identity.hex(),
        document.address,
        whole.document.error,
        changed,
        last.chunk_ids is not None,
        chunks,
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The differences, in the order of `now`, then those that only `before` has."""
    names = [*now, *(name for name in before if name not in now)]
    return [
        Difference(name, before.get(name), now.get(name))
        for name in names
        if before.get(name) != now.get(name) or (name in before) != (name in now)
    ]


def _reason_new(changed: list[Difference] | None, last: LastCommit, chunk_id: str) -> str:
    if changed:
        return "the input is new: its settings changed since the last committed run"
    if last.chunk_ids is None:
        if changed is None:
            return "never answered, and no run of this output has committed"
        return "a new row"
    if chunk_id in last.chunk_ids:
        return "in the output, but its answer is gone: pruned, or kept in another TEXTMILL_HOME"
    return "the text changed, or a column that the prompt reads"


def _changed_settings(
    pipeline: Pipeline, endpoints: Sequence[Endpoint], manifest: Mapping[str, Any] | None
) -> list[Difference] | None:
    """The settings of inputs and keys that changed since this manifest."""
    if manifest is None:
        return None
    input_settings = manifest.get("input_settings")
    changed = (
        differences(input_settings, settings_in_effect(pipeline, endpoints))
        if isinstance(input_settings, dict)
        else []
    )
    prefixes = manifest.get("prefixes")
    if not isinstance(prefixes, list):
        return changed
    before = [parts_of(msgspec.json.encode(one, order="sorted")) or {} for one in prefixes]
    now = [parts_of(prefix(endpoint)) or {} for endpoint in endpoints]
    if len(before) == len(now):
        for old, new in zip(before, now, strict=True):
            changed += [one for one in differences(old, new) if one not in changed]
    else:
        models = [[parts.get("endpoint.model") for parts in side] for side in (before, now)]
        changed.append(Difference("endpoint", *models))
    return changed


def _prefix_summaries(
    endpoints: Sequence[Endpoint], cache: AnswerCache | None
) -> list[_PrefixSummary]:
    """The prefixes of these endpoints, then all others in the cache, the latest first."""
    own: dict[bytes, set[int]] = {}
    for position, endpoint in enumerate(endpoints):
        own.setdefault(prefix(endpoint), set()).add(position)
    stored = reversed(cache.prefixes()[-MAX_PREFIXES:] if cache else [])
    return [
        _PrefixSummary(one, parts, frozenset(own.get(one, ())))
        for one in dict.fromkeys([*own, *stored])
        if (parts := parts_of(one)) is not None
    ]


def _nearest_answers(
    requests: Sequence[Request], prefixes: Sequence[_PrefixSummary], cache: AnswerCache | None
) -> dict[bytes, tuple[list[Difference], str]]:
    """By `dedup_key`: the differences of the nearest prefix with an answer, and the reason."""
    nearest: dict[bytes, tuple[list[Difference], str]] = {}
    if cache is None or not requests:
        return nearest
    for candidate in prefixes:  # among equally near ones the first
        key_of = key_function(candidate.prefix)
        keys = [key_of(request.input) for request in requests]
        stored = cache.get_many(keys)
        for request, key in zip(requests, keys, strict=True):
            positions = set(request.route.positions)
            if key not in stored or candidate.positions & positions:
                continue
            own = [one.parts for one in prefixes if one.positions & positions]
            differs = min((differences(candidate.parts, parts) for parts in own), key=len)
            best = nearest.get(request.dedup_key)
            if best is None or len(differs) < len(best[0]):
                barred = "answered by an endpoint that the job's rules keep from this row"
                why = barred if candidate.positions else "answered under another key"
                nearest[request.dedup_key] = (differs, why)
    return nearest


def _with_pieces(
    factory: RequestFactory, whole: PreparedDocument, cache: AnswerCache | None
) -> PreparedDocument:
    """The document with pieces in place of requests that are known to be too long for the model."""
    unsplittable: set[bytes] = set()
    while cache is not None:
        stored = look_up(cache, factory.keys, whole.requests)
        too_long = {key for key, hit in stored.items() if isinstance(hit.settled, Split)}
        if not too_long - unsplittable:
            break
        whole, _, too_short = split(factory, whole, too_long - unsplittable)
        unsplittable |= {request.dedup_key for request in too_short}
    return whole
