"""Says on the terminal what is being done and how long it took; never decides anything."""

import sys
import time
from contextlib import contextmanager


class Failure(Exception):
    """A message for the person at the terminal: what was tried, what was found, what to do."""


@contextmanager
def step(who, what):
    """Prints ``who: what … 1.2 s`` around the work inside; on a failure it says so and lets it pass."""
    print(f"{who}: {what} …", end=" ", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"failed after {since(start)}", flush=True)
        raise
    print(since(start), flush=True)


def since(start):
    """The time since `start` (of the monotonic clock) in words."""
    seconds = time.monotonic() - start
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def main(run):
    """Calls `run` and turns a Failure or Ctrl-C into one line and an exit code."""
    try:
        sys.exit(run())
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
