"""Tells the user what is being done and how long it took; on stderr, so that stdout stays the caller's."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def line(text: str) -> None:
    """One line, marked as this program's."""
    print(f"emoji: {text}", file=sys.stderr, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """One line when the step is done, with its seconds."""
    start = time.monotonic()
    yield
    line(f"{what}: {time.monotonic() - start:.1f} s")
