"""Shows the runs while they go on: the table of ``kubectl get`` and a bar for the stage at work."""

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
        screen.show(runs.table(place, namespace), [bar(run, stage) for run in seen for stage in run.stages
                                                   if stage["state"] in ("Starting", "Running")])
        if failed := [run for run in seen if run.is_true("Failed")]:
            raise Failure("\n".join(map(why, failed)))
        if all(run.is_true("Complete") for run in seen):
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
    """Redraws in place on a terminal; in a log it adds a table when one changes and a bar now and then."""

    def __init__(self):
        self.lines = 0
        self.table = ""
        self.next_bar = 0

    def show(self, table, bars):
        if sys.stdout.isatty():
            self.redraw([*table.splitlines(), "", *bars])
        else:
            self.append(table, bars)
        sys.stdout.flush()

    def redraw(self, lines):
        sys.stdout.write(f"\x1b[{self.lines}F\x1b[J" if self.lines else "")
        print("\n".join(lines))
        self.lines = len(lines)

    def append(self, table, bars):
        if time.monotonic() < self.next_bar:
            return
        self.next_bar = time.monotonic() + 15
        if bars:
            print("\n".join(bars))
        elif table != self.table:
            print(table)
        self.table = table
