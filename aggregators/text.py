"""Joins the texts that answer a document's chunks, in order."""

from __future__ import annotations

from collections.abc import Iterable

from aggregators.account import Account
from pipeline.records import Answer, Column, Document, Outcome, Result, Row

REVISION = 1


class Text:
    """One text per document: the answers to its chunks, joined by line breaks."""

    per_chunk = False

    def __init__(self, column: Column) -> None:
        self.columns = (column,)

    def step(self, document: Document, outcomes: Iterable[Outcome]) -> Result:
        """One row; its text is None where the document has no chunk or no answer."""
        account = Account.of(document, outcomes)
        texts = [
            outcome.settled.value
            for outcome in outcomes
            if isinstance(outcome.settled, Answer) and isinstance(outcome.settled.value, str)
        ]
        return account.result([Row(("\n".join(texts) if texts else None,), None, account.error)])
