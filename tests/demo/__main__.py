"""The demo from beginning to end; each step says what it does and how long it took."""

import json
import subprocess
import time

from bed import images
from bed.processes import run
from bed.steps import main, since

from . import summary, watch
from .house import NAMESPACE, SYSTEM, apply, fetch_report, house

OUT = images.PROJECT / "target/demo"
FIRST, THEN = ("english.yaml",), ("chinese.yaml", "evaluation.yaml")
"""What is applied at once, and what when that is complete: the second begins with the first one's weights."""


def demo():
    begin = time.monotonic()
    with house() as where:
        finish(where, begin, time.monotonic() - begin)
    print(f"demo: done in {since(begin)}")


def finish(where, begin, setup):
    """Starts the runs, watches them to their end and leaves the summary and the report."""
    memory = OperatorMemory(where)
    for names in (FIRST, THEN):
        apply(where, *names)
        done = watch.until_done(where, NAMESPACE, memory.look)
    pages = [fetch_report(where, each, OUT) for each in done]
    seconds = {"setup": round(setup, 1), "total": round(time.monotonic() - begin, 1)}
    result = summary.of(done, seconds, memory.peak, pages[-1])
    summary.write(result, OUT / "summary.json")
    print(f"\n{summary.table(result)}\n\nsummary  {OUT / 'summary.json'}", *pages, sep="\nreport   ")


class OperatorMemory:
    """The most memory the operator was seen to hold, in bytes, by its own metric."""

    def __init__(self, where):
        self.kubectl = where.kubectl
        self.peak = 0

    def look(self):
        pods = json.loads(run(*self.kubectl, "--namespace", SYSTEM, "get", "pods", "--output", "json"))["items"]
        for pod in pods:
            proxy = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
            answer = subprocess.run([*self.kubectl, "get", "--raw", proxy], capture_output=True, text=True).stdout
            values = [float(line.split()[1]) for line in answer.splitlines()
                      if line.startswith("process_resident_memory_bytes ")]
            self.peak = max([self.peak, *map(int, values)])


main(demo)
