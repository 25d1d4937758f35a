"""What is settled already: the one place that walks the keys of requests through the cache.

A request may have been answered by any model that its route allows. Its keys are looked up in
job-file order, and the first outcome counts, so that every run sees the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.cache import AnswerCache
from pipeline.keys import Keys
from pipeline.records import Answer, Request, Split


class Found(NamedTuple):
    """An outcome that stands in the cache."""

    settled: Answer | Split
    is_first: bool
    """It stands under the first model that may answer the request."""


def look_up(cache: AnswerCache, keys: Keys, requests: Sequence[Request]) -> dict[bytes, Found]:
    """The outcomes there are, by flight. Blocks on the cache."""
    stored = cache.get_many([each.key for each in requests])
    found = {e.flight: Found(stored[e.key], True) for e in requests if e.key in stored}
    if keys.is_one:
        return found
    others = {each.flight: keys.others(each) for each in requests if each.flight not in found}
    stored = cache.get_many([key for some in others.values() for key in some])
    for flight, some in others.items():
        settled = next((stored[key] for key in some if key in stored), None)
        if settled is not None:
            found[flight] = Found(settled, False)
    return found
