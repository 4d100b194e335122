"""Progress of the build, on stderr, so that stdout is left to the caller."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def log(text: str) -> None:
    """Prints one line with this program's name."""
    print(f"emoji: {text}", file=sys.stderr, flush=True)


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Logs the seconds that the enclosed work took."""
    start = time.monotonic()
    yield
    log(f"{step}: {time.monotonic() - start:.1f} s")
