"""``make demo``: all steps of the demo, each with its description and time."""

import json
import subprocess
import time

from cnclip_build.commands import run
from cnclip_build.paths import PROJECT
from cnclip_build.progress import elapsed, main

from . import monitor, summary
from .deploy import OPERATOR_NAMESPACE, RUN_NAMESPACE, apply, deployed, fetch_report

OUT = PROJECT / "target/demo"
PHASES = (("english.yaml",), ("chinese.yaml", "evaluation.yaml"))
"""Manifests that are applied together. The second phase begins with the weights of the first."""


def demo():
    """Deploys everything, runs all phases and prints the summary."""
    start = time.monotonic()
    with deployed() as environment:
        train_and_evaluate(environment, start, time.monotonic() - start)
    print(f"demo: finished in {elapsed(start)}")


def train_and_evaluate(environment, start, setup_seconds):
    """Applies the manifests, waits for the runs and writes the summary and the reports."""
    memory = OperatorMemory(environment)
    for manifests in PHASES:
        apply(environment, *manifests)
        completed = monitor.wait_for_completion(environment, RUN_NAMESPACE, memory.sample)
    reports = [fetch_report(environment, run, OUT) for run in completed]
    seconds = {"setup": round(setup_seconds, 1), "total": round(time.monotonic() - start, 1)}
    result = summary.summarize(completed, seconds, memory.peak, reports[-1])
    summary.write(result, OUT / "summary.json")
    print(f"\n{summary.format_table(result)}\n\nsummary  {OUT / 'summary.json'}", *reports, sep="\nreport   ")


class OperatorMemory:
    """The peak resident memory of the operator in bytes, sampled from its Prometheus metrics."""

    def __init__(self, environment):
        self.kubectl = environment.kubectl
        self.peak = 0

    def sample(self):
        """Reads the metrics of every operator pod once."""
        listed = run(*self.kubectl, "--namespace", OPERATOR_NAMESPACE, "get", "pods", "--output", "json")
        for pod in json.loads(listed)["items"]:
            url = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
            # A pod that is starting does not answer yet; that is no failure of the demo.
            metrics = subprocess.run([*self.kubectl, "get", "--raw", url], capture_output=True, text=True).stdout
            values = [float(line.split()[1]) for line in metrics.splitlines()
                      if line.startswith("process_resident_memory_bytes ")]
            self.peak = max([self.peak, *map(int, values)])


main(demo)
