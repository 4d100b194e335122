"""Displays runs until they finish: the table of ``kubectl get`` and a progress bar for each running stage."""

import shutil
import sys
import time

from cnclip_build.progress import Failure

from . import runs

BAR_WIDTH = 32


def wait_for_completion(environment, namespace, sample, timeout=3600):
    """Displays the runs every two seconds and returns them when all are complete; `sample` is called each time."""
    display = Display()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        current = runs.list_runs(environment, namespace)
        failed = [run for run in current if run.has_condition("Failed")]
        complete = all(run.has_condition("Complete") for run in current)
        bars = (progress_bar(run, stage) for run in current for stage in run.stages
                if stage["state"] in ("Starting", "Running"))
        display.update("\n".join([runs.format_table(environment, namespace), "", *bars]), final=failed or complete)
        if failed:
            raise Failure("\n".join(map(failure_message, failed)))
        if complete:
            return current
        sample()
        time.sleep(2)
    raise Failure(f"the runs did not finish within {timeout} s; the table above shows their state.")


def failure_message(run):
    """Why a run failed, by its status."""
    failure = run.status.get("lastFailure", {})
    condition = next(c for c in run.status["conditions"] if c["type"] == "Failed")
    return f"{run.kind} {run.name}: {condition['reason']}: {failure.get('message') or condition['message']}"


def progress_bar(run, stage):
    """One line: the stage's progress and the numbers of its last report."""
    step = stage.get("step", 0)
    steps = stage.get("steps", 0)  # unknown before the trainer's first report
    filled = BAR_WIDTH * step // steps if steps else 0
    parts = [f"{run.name}/{stage['name']:10} {'█' * filled}{'░' * (BAR_WIDTH - filled)} {step}/{steps or '?'}"]
    if "loss" in stage:
        parts.append(f"loss {stage['loss']}")
    if "samplesPerSecond" in stage:
        parts.append(f"{stage['samplesPerSecond']} pairs/s")
    if "etaSeconds" in stage:
        parts.append(f"{stage['etaSeconds'] // 60}:{stage['etaSeconds'] % 60:02} left")
    return "  ".join(parts)


class Display:
    """Redraws text in place on a terminal; if the output is a file, it is appended twice a minute."""

    def __init__(self):
        self.line_count = 0
        self.next_print = 0

    def update(self, text, final):
        """Shows a new version of the text; the `final` one is printed in any case."""
        if sys.stdout.isatty():
            self.redraw(text.splitlines())
        elif final or time.monotonic() >= self.next_print:
            self.next_print = time.monotonic() + 30
            print(f"{text}\n", flush=True)

    def redraw(self, lines):
        """Replaces the lines of the previous version."""
        width = shutil.get_terminal_size().columns - 1  # a wrapped line would make the line count wrong
        # Cursor up by so many lines, then clear to the end of the screen.
        sys.stdout.write(f"\x1b[{self.line_count}F\x1b[J" if self.line_count else "")
        print("\n".join(line[:width] for line in lines), flush=True)
        self.line_count = len(lines)
