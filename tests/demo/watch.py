"""Shows the runs while they go on: the table of ``kubectl get`` and a bar for the stage at work."""

import shutil
import sys
import time

from bed.steps import Failure

from . import runs

WIDTH = 32


def until_done(place, namespace, sample, limit=3600):
    """Shows the runs every two seconds and returns them when all have ended; `sample` is called each time."""
    screen = Screen()
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        seen = runs.observe(place, namespace)
        failed = [run for run in seen if run.is_true("Failed")]
        done = all(run.is_true("Complete") for run in seen)
        bars = (bar(run, stage) for run in seen for stage in run.stages if stage["state"] in ("Starting", "Running"))
        screen.show("\n".join([runs.table(place, namespace), "", *bars]), last=failed or done)
        if failed:
            raise Failure("\n".join(map(why, failed)))
        if done:
            return seen
        sample()
        time.sleep(2)
    raise Failure(f"the runs have not ended after {limit} s; the table above shows where they are.")


def why(run):
    """What the operator says of a run that failed."""
    last = run.status.get("lastFailure", {})
    reason = next(c for c in run.status["conditions"] if c["type"] == "Failed")
    return f"{run.kind} {run.name}: {reason['reason']}: {last.get('message') or reason['message']}"


def bar(run, stage):
    """One line: how far the stage is, and the numbers of its last report."""
    step, steps = stage.get("step", 0), stage.get("steps", 0)
    full = WIDTH * step // steps if steps else 0
    parts = [f"{run.name}/{stage['name']:10} {'█' * full}{'░' * (WIDTH - full)} {step}/{steps or '?'}"]
    if "loss" in stage:
        parts.append(f"loss {stage['loss']}")
    if "samplesPerSecond" in stage:
        parts.append(f"{stage['samplesPerSecond']} pairs/s")
    if "etaSeconds" in stage:
        parts.append(f"{stage['etaSeconds'] // 60}:{stage['etaSeconds'] % 60:02} left")
    return "  ".join(parts)


class Screen:
    """Redraws in place on a terminal; in a log it adds what there is to see twice a minute."""

    def __init__(self):
        self.lines = 0
        self.next = 0

    def show(self, text, last):
        """Shows the text, which is the last one when all have ended."""
        if sys.stdout.isatty():
            self.redraw(text.splitlines())
        elif last or time.monotonic() >= self.next:
            self.next = time.monotonic() + 30
            print(f"{text}\n", flush=True)

    def redraw(self, lines):
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write(f"\x1b[{self.lines}F\x1b[J" if self.lines else "")
        print("\n".join(line[:width] for line in lines), flush=True)
        self.lines = len(lines)
