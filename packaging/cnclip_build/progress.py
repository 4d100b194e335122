"""Progress on the terminal: what is being done and how long it took. Makes no decisions."""

import sys
import time
from contextlib import contextmanager


class Failure(Exception):
    """A message for the user: what was attempted, what was found, what to do."""


@contextmanager
def step(program, description):
    """Prints ``program: description … 1.2 s`` around the enclosed work; a failure is printed and passed on."""
    print(f"{program}: {description} …", end=" ", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"failed after {elapsed(start)}", flush=True)
        raise
    print(elapsed(start), flush=True)


def elapsed(start):
    """The time since `start`, a value of the monotonic clock, as text."""
    seconds = time.monotonic() - start
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def main(run):
    """Calls `run` and exits with its result; a Failure or Ctrl-C becomes one line and an exit code."""
    try:
        sys.exit(run())
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as a shell reports it
