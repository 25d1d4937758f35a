"""The status of a document: counts that every aggregator reports."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pipeline.records import Document, Failure, Outcome, Result, Row, Status


class Account(Struct, frozen=True):
    """Counts over a document's outcomes.

    Invariant: `failed` if the row is isolated or every request failed, `partial` if some requests
    failed, else `ok`; a document without chunks, such as a blank text, is ok.
    """

    status: Status
    error: str | None
    chunks: int
    tokens: int
    truncated: bool
    model: str | None

    @classmethod
    def of(cls, document: Document, outcomes: Iterable[Outcome]) -> Account:
        """The account of this document; reads `outcomes` once."""
        chunks = failed = tokens = 0
        truncated = False
        model: str | None = None
        first_error: str | None = None
        for outcome in outcomes:
            chunks += 1
            tokens += outcome.request.chunk.tokens
            settled = outcome.settled
            if isinstance(settled, Failure):
                failed += 1
                first_error = first_error or f"{settled.kind}: {settled.message}"
            else:
                truncated = truncated or settled.truncated
                model = model or settled.model or None
        if document.error is not None:
            return cls("failed", document.error, 0, 0, False, None)
        if not failed:
            return cls("ok", None, chunks, tokens, truncated, model)
        error = (
            first_error
            if failed == chunks
            else f"{failed} of {chunks} chunks failed: {first_error}"
        )
        status: Status = "failed" if failed == chunks else "partial"
        return cls(status, error, chunks, tokens, truncated, model)

    def result(self, rows: Iterable[Row]) -> Result:
        """The result with these rows."""
        return Result(
            self.status, rows, self.error, self.chunks, self.tokens, self.truncated, self.model
        )
