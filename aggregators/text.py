"""Texts put together: the answers to a document's chunks, in their order."""

from __future__ import annotations

from collections.abc import Iterable

from aggregators.account import Account
from pipeline.records import Answer, Column, Document, Outcome, Result, Row

REVISION = 1


class Text:
    """One text per document: what was answered to each chunk, joined by a line break."""

    per_chunk = False

    def __init__(self, column: Column) -> None:
        self.columns = (column,)

    def step(self, document: Document, outcomes: Iterable[Outcome]) -> Result:
        """One row; its text is None where the document has no chunk or no answer."""
        account = Account.of(document, outcomes)
        told = [
            outcome.settled.value
            for outcome in outcomes
            if isinstance(outcome.settled, Answer) and isinstance(outcome.settled.value, str)
        ]
        return account.result([Row(("\n".join(told) if told else None,), None, account.error)])
