"""File descriptors: how many calls at a time the limit of this process allows.

Each call in flight holds a connection. Where descriptors run out, neither a connection nor a file
can be opened, and the errors look like a dead server or a full disk. So the soft limit (256 on
macOS) is raised before a run, and the calls are bounded by what is left of the hard one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from pipeline.errors import UsageError

FILES = 40
"""For everything but calls: a run of eight calls holds 32 besides them (measured)."""
SPARE = 64
"""More of them, where the hard limit allows."""
MIN_CALLS = 8
"""With less, the limit is too low for a job that allows as many."""


class Fit(NamedTuple):
    """The soft limit to set, and the calls at a time that fit below it."""

    soft: int
    calls: int


def fit(soft: int, hard: int, in_use: int, wanted: int) -> Fit:
    """The soft limit for `wanted` calls at a time, and how many of them fit.

    `in_use` descriptors are open before the run. Invariants: the soft limit is never lowered and
    never above the hard one; `calls` <= `wanted`.
    Raises: UsageError if not even `MIN_CALLS`, or fewer if fewer are wanted, fit.
    """
    new_soft = max(soft, min(hard, in_use + FILES + SPARE + wanted))
    calls = min(wanted, new_soft - in_use - FILES)
    if calls < min(wanted, MIN_CALLS):
        raise UsageError(
            f"the limit of {new_soft:,} open files is too low: {in_use:,} are open, a run needs "
            f"{FILES + min(wanted, MIN_CALLS)} more",
            hint="raise it with `ulimit -n 1024`",
        )
    return Fit(new_soft, calls)


def bounds(ceilings: Sequence[int], total: int) -> list[int]:
    """The ceilings, the largest lowered to one level, so that they add up to at most `total`.

    Each stays at least 1: the sum can be larger only if there are more ceilings than `total`.
    """
    lowered, left = list(ceilings), total
    by_size = sorted(range(len(ceilings)), key=ceilings.__getitem__)
    for done, at in enumerate(by_size):
        lowered[at] = max(1, min(ceilings[at], left // (len(ceilings) - done)))
        left -= lowered[at]
    return lowered


def allow(wanted: int) -> Fit:
    """Raises the soft limit of this process for `wanted` calls at a time. Raises: UsageError."""
    import resource

    soft, hard = (
        1 << 20 if limit == resource.RLIM_INFINITY else limit
        for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    in_use = _in_use()
    fitted = fit(soft, hard, in_use, wanted)
    if fitted.soft > soft:
        with suppress(OSError, ValueError):  # a system may have a lower bound of its own
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (fitted.soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            )
            return fitted
    return fit(soft, soft, in_use, wanted)


def _in_use() -> int:
    """The open descriptors of this process."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # noqa: PTH208 - one is that of the listing itself
    except OSError:
        return 8
