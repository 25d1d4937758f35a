"""Work that a signal may leave: a reader that waits for a bucket does not hear ctrl-C itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def waited(work: Callable[[], T]) -> T:
    """What the work returns or raises; it goes on in a thread of its own, and is left behind where
    a signal ends the waiting."""
    done: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

    def worker() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=worker, daemon=True).start()
    found, error = done.get()
    if error is not None:
        raise error
    return found  # type: ignore[return-value]
