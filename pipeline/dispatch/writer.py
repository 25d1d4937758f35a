"""Makes outcomes durable in groups: answers in the cache, final failures in the journal.

All workers share one writer (group commit): while it commits a group, the next one collects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from anyio.to_thread import run_sync

from pipeline.cache.store import AnswerCache
from pipeline.records import Answer, Failure, Split

WriteFailures = Callable[[Sequence[tuple[bytes, Failure]]], None]
"""Stores final failures of an open run by `dedup_key`; they are durable when it returns."""


class Writer:
    """Commits outcomes. Raises: StorageError from `run` and `flush`, if an outcome cannot be
    stored."""

    def __init__(self, cache: AnswerCache, journal: WriteFailures | None = None) -> None:
        self._cache = cache
        self._journal = journal
        self._answers: list[tuple[bytes, Answer | Split]] = []
        self._failures: list[tuple[bytes, Failure]] = []
        self._durable = anyio.Event()
        self._has_work = anyio.Event()

    async def keep(self, answers: Sequence[tuple[bytes, Answer | Split]]) -> None:
        """Return once these answers are durable in the cache."""
        self._answers.extend(answers)
        await self._next_group()

    async def journal(self, failures: Sequence[tuple[bytes, Failure]]) -> None:
        """Return once these failures are durable in the journal, if there is one."""
        if self._journal is not None:
            self._failures.extend(failures)
            await self._next_group()

    async def run(self) -> None:
        """Commit group after group, until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work = anyio.Event()
            durable, self._durable = self._durable, anyio.Event()
            with anyio.CancelScope(shield=True):
                await self.flush()
            durable.set()

    async def flush(self) -> None:
        """Commit the outcomes that are waiting."""
        answers, self._answers = self._answers, []
        failures, self._failures = self._failures, []
        if answers or failures:
            await run_sync(self._commit, answers, failures)

    def _commit(
        self,
        answers: Sequence[tuple[bytes, Answer | Split]],
        failures: Sequence[tuple[bytes, Failure]],
    ) -> None:
        if answers:
            self._cache.put_many(answers)
        if failures and self._journal is not None:
            self._journal(failures)

    async def _next_group(self) -> None:
        durable = self._durable
        self._has_work.set()
        await durable.wait()
