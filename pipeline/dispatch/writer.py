"""Makes outcomes durable in groups: answers in the cache, final failures in the journal.

All workers share one writer (group commit): while it commits a group, the next one collects.
The first durable answer to a request stays, whichever run brought it: a later one gives way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio
from anyio.to_thread import run_sync

from pipeline.cache.store import AnswerCache
from pipeline.dispatch.queue import InFlight
from pipeline.records import Answer, Failure, Split

WriteFailures = Callable[[Sequence[tuple[bytes, Failure]]], None]
"""Stores final failures of an open run by `dedup_key`; they are durable when it returns."""


class Kept(NamedTuple):
    """An outcome to store under a key, and the request that it settles."""

    key: bytes
    outcome: Answer | Split
    entry: InFlight


class _Group:
    """The outcomes that one commit makes durable."""

    def __init__(self) -> None:
        self.answers: list[Kept] = []
        self.failures: list[tuple[bytes, Failure]] = []
        self.stored: dict[bytes, Answer | Split] = {}
        self.is_durable = anyio.Event()


class Writer:
    """Commits outcomes. Raises: StorageError from `run` and `flush`, if an outcome cannot be
    stored.

    `can_use` says whether an outcome that is stored already settles a request.
    """

    def __init__(
        self,
        cache: AnswerCache,
        can_use: Callable[[InFlight, Answer | Split], bool],
        journal: WriteFailures | None = None,
    ) -> None:
        self._cache = cache
        self._can_use = can_use
        self._journal = journal
        self._group = _Group()
        self._has_work = anyio.Event()

    async def keep(self, answers: Sequence[Kept]) -> dict[bytes, Answer | Split]:
        """Return once answers under these keys are durable in the cache. Returns: by key, those
        that were stored first, by another run, and stay."""
        group = self._group
        group.answers.extend(answers)
        await self._durable(group)
        return group.stored

    async def journal(self, failures: Sequence[tuple[bytes, Failure]]) -> None:
        """Return once these failures are durable in the journal, if there is one."""
        if self._journal is not None:
            group = self._group
            group.failures.extend(failures)
            await self._durable(group)

    async def run(self) -> None:
        """Commit group after group, until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work = anyio.Event()
            with anyio.CancelScope(shield=True):
                await self.flush()

    async def flush(self) -> None:
        """Commit the outcomes that are waiting."""
        group, self._group = self._group, _Group()
        if group.answers or group.failures:
            await run_sync(self._commit, group)
        group.is_durable.set()

    def _commit(self, group: _Group) -> None:
        if group.answers:
            entries = {kept.key: kept.entry for kept in group.answers}
            group.stored = self._cache.put_many(
                [(kept.key, kept.outcome) for kept in group.answers],
                lambda key, stored: self._can_use(entries[key], stored),
            )
        if group.failures and self._journal is not None:
            self._journal(group.failures)

    async def _durable(self, group: _Group) -> None:
        self._has_work.set()
        await group.is_durable.wait()
