"""What is settled, made durable in groups: answers into the cache, final failures into the journal.

One writer for all workers: while a group is being made durable, the next one gathers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from anyio.to_thread import run_sync

from pipeline.cache.store import AnswerCache
from pipeline.records import Answer, Failure, Split

WriteFailures = Callable[[Sequence[tuple[bytes, Failure]]], None]
"""Keeps final failures of an open run by flight; they are durable when it returns."""


class Writer:
    """Raises: StorageError from `run` and `flush`, where what is settled cannot be kept."""

    def __init__(self, cache: AnswerCache, journal: WriteFailures | None = None) -> None:
        self._cache = cache
        self._journal = journal
        self._answers: list[tuple[bytes, Answer | Split]] = []
        self._failures: list[tuple[bytes, Failure]] = []
        self._durable = anyio.Event()
        self._some = anyio.Event()

    async def keep(self, answers: Sequence[tuple[bytes, Answer | Split]]) -> None:
        """Return when these stand in the cache."""
        self._answers.extend(answers)
        await self._next_group()

    async def journal(self, failures: Sequence[tuple[bytes, Failure]]) -> None:
        """Return when these stand in the journal, if there is one."""
        if self._journal is not None:
            self._failures.extend(failures)
            await self._next_group()

    async def run(self) -> None:
        """Write group after group, until it is cancelled."""
        while True:
            await self._some.wait()
            self._some = anyio.Event()
            durable, self._durable = self._durable, anyio.Event()
            with anyio.CancelScope(shield=True):
                await self.flush()
            durable.set()

    async def flush(self) -> None:
        """Write what has gathered."""
        answers, self._answers = self._answers, []
        failures, self._failures = self._failures, []
        if answers or failures:
            await run_sync(self._write, answers, failures)

    def _write(
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
        self._some.set()
        await durable.wait()
