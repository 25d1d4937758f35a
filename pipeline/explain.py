"""Why a row's answers are there, or why they would have to be paid for.

A key is a hash and cannot be read backwards. But every prefix that was ever asked for is remembered
beside the answers, so the same input is looked up under each of them: what is found there tells
which part of the key is another. Where the input itself is new, the manifest of the last committed
run tells what shaped it otherwise, and its output whether the row was there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from pipeline import identity
from pipeline.cache import AnswerCache
from pipeline.keys import keyed_by, parts_of, prefix
from pipeline.prepare import Opened, Pipeline, opened, split
from pipeline.prompts import chunk_text
from pipeline.records import Document, Request, Split

PREFIXES = 1_000
"""Of so many, the latest, one is looked for."""
AT_ONCE = 512

State = Literal["cached", "missing", "damaged"]


class Difference(Struct, frozen=True):
    """A part of a key, or what shapes an input, then and now; None: not said."""

    name: str
    before: Any
    now: Any


class ChunkTold(Struct, frozen=True):
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


class RowTold(Struct, frozen=True):
    """What there is to say of a row. `changed`: what shapes inputs, since the last committed run;
    None where no run has committed."""

    id: Any
    identity: str
    address: str
    error: str | None
    changed: list[Difference] | None
    is_in_output: bool
    chunks: list[ChunkTold]


class Past(Struct, frozen=True):
    """What is known of earlier runs of the same output."""

    manifest: Mapping[str, Any] | None = None
    """Of the last run that committed."""
    failures: Sequence[Mapping[str, Any]] = ()
    """Of this row, in the last run."""
    chunk_ids: set[str] | None = None
    """Of this row in the output that stands; None: it is not there."""


def own_prefixes(pipeline: Pipeline) -> list[bytes]:
    """The prefixes under which this pipeline looks for an answer, in this order."""
    return [prefix(pipeline.endpoint)]


def explained(
    pipeline: Pipeline, document: Document, cache: AnswerCache | None, past: Past
) -> RowTold:
    """The row, each of its requests, and why it is missing where it is. Sends nothing."""
    own = own_prefixes(pipeline)
    first = keyed_by(own[0])
    whole = _with_pieces(pipeline, opened(pipeline, document, first), cache)
    changed = _changed(pipeline, own, past.manifest)
    others = [p for p in (cache.prefixes() if cache else ())[-PREFIXES:] if p not in own]
    failed = {(f.get("start_char"), f.get("end_char")): dict(f) for f in past.failures}
    seen: Counter[str] = Counter()
    chunks: list[ChunkTold] = []
    for start in range(0, len(whole.requests), AT_ONCE):
        some = whole.requests[start : start + AT_ONCE]
        states = _states(some, own, cache)
        missing = [request for request in some if states[request.key] != "cached"]
        nearest = _nearest(missing, own, others, cache)
        for at, request in enumerate(some, start):
            text = chunk_text(document, request.chunk)
            name = identity.chunk_id(document.identity, text.encode(), seen[text])
            seen[text] += 1
            failure = failed.get((request.chunk.start_char, request.chunk.end_char))
            differs: list[Difference] = []
            why = None
            if states[request.key] == "damaged":
                why = "its entry is damaged and will be asked for again"
            elif states[request.key] == "missing":
                differs = nearest.get(request.key, [])
                if failure is not None:
                    why = f"failed in the last run: {failure.get('reason')}"
                elif differs:
                    why = "answered under another key"
                else:
                    why = _why_new(changed, past, name)
            chunks.append(
                ChunkTold(
                    at,
                    request.chunk.start_char,
                    request.chunk.end_char,
                    request.tokens,
                    request.key.hex()[:12],
                    states[request.key],
                    why,
                    differs,
                    failure,
                )
            )
    return RowTold(
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


def _why_new(changed: list[Difference] | None, past: Past, name: str) -> str:
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
    pipeline: Pipeline, own: Sequence[bytes], manifest: Mapping[str, Any] | None
) -> list[Difference] | None:
    """What shapes inputs and keys, then and now."""
    if manifest is None:
        return None
    found: list[Difference] = []
    shaping = manifest.get("shaping")
    if isinstance(shaping, dict):
        found += differences(shaping, pipeline.shaping)
    prefixes = manifest.get("prefixes")
    if isinstance(prefixes, list):
        before = [parts_of(msgspec.json.encode(each, order="sorted")) for each in prefixes]
        now = [parts_of(each) for each in own]
        if before and before[0] and now[0] and before != now:
            found += differences(before[0], now[0])
    return found


def _states(
    requests: Sequence[Request], own: Sequence[bytes], cache: AnswerCache | None
) -> dict[bytes, State]:
    """By the first key of each request: whether it is answered under any of its keys."""
    states: dict[bytes, State] = {request.key: "missing" for request in requests}
    if cache is None:
        return states
    for each in own:
        keys = _keys(requests, each)
        found = cache.get_many(keys)
        for request, key in zip(requests, keys, strict=True):
            if key in found:
                states[request.key] = "cached"
            elif states[request.key] == "missing" and cache.holds(key):
                states[request.key] = "damaged"
    return states


def _nearest(
    requests: Sequence[Request],
    own: Sequence[bytes],
    others: Sequence[bytes],
    cache: AnswerCache | None,
) -> dict[bytes, list[Difference]]:
    """By the first key of a request: what the nearest prefix that has an answer says otherwise."""
    nearest: dict[bytes, list[Difference]] = {}
    now = parts_of(own[0])
    if cache is None or now is None or not requests:
        return nearest
    for other in reversed(others):  # of equally near ones, the latest
        before = parts_of(other)
        if before is None:
            continue
        differs = differences(before, now)
        keys = _keys(requests, other)
        found = cache.get_many(keys)
        for request, key in zip(requests, keys, strict=True):
            known = nearest.get(request.key)
            if key in found and (known is None or len(differs) < len(known)):
                nearest[request.key] = differs
    return nearest


def _keys(requests: Sequence[Request], prefix: bytes) -> list[bytes]:
    key: Callable[[str], bytes] = keyed_by(prefix)
    return [key(request.input) for request in requests]


def _with_pieces(pipeline: Pipeline, whole: Opened, cache: AnswerCache | None) -> Opened:
    """With pieces in the place of what was found to be too long for the model."""
    hopeless: set[bytes] = set()
    while cache is not None:
        found = cache.get_many(request.key for request in whole.requests)
        too_long = {key for key, answer in found.items() if isinstance(answer, Split)} - hopeless
        if not too_long:
            break
        whole, _, rest = split(pipeline, whole, too_long)
        hopeless |= {request.key for request in rest}
    return whole
