"""``make ablation``: the paper's ablation in miniature. From scratch, without the first stage, and in two stages."""

import json
import os
import time

from cnclip_build import images
from cnclip_build.commands import run
from cnclip_build.paths import PROJECT
from cnclip_build.progress import elapsed, main

from . import monitor, summary
from .deploy import RUN_NAMESPACE, apply, deployed

OUT = PROJECT / "target/ablation"
ARMS = ("scratch", "image-init", "two-stage")
"""The compared runs and their manifests. All have the same number of steps."""


def ablation():
    """Trains and evaluates all arms and prints their scores."""
    start = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    with deployed() as environment:
        # One after the other: concurrent runs would compete for the CPUs, and their speeds would mean nothing.
        for name in ("english.yaml", *(f"ablation/{arm}.yaml" for arm in ARMS)):
            apply(environment, name)
            completed = monitor.wait_for_completion(environment, RUN_NAMESPACE, lambda: None)
        write_summary(completed)
        print(compare_validation(environment))
    print(f"summary  {OUT / 'summary.json'}\npage     {OUT / 'ablation.html'}\nablation: finished in {elapsed(start)}")


def write_summary(completed):
    """Prints and writes the recalls, in percent, on the vendor that no run was trained on."""
    recalls = {run.name: summary.recalls(run) for run in completed if run.kind == "CnClipEvaluation"}
    (OUT / "summary.json").write_text(json.dumps({"recall": recalls}, indent=2) + "\n")
    print("\nTest split: a vendor that no run was trained on")
    for arm in ARMS:
        print(f"\n{arm}\n{summary.format_table({'recall': recalls[arm]})}")


def compare_validation(environment):
    """Writes a page with the validation curves of all arms; returns the table of their best values."""
    program = images.compile_release() / images.PROGRAMS["trainer"]
    runs = (f"{arm}={environment.root}/runs/{arm}/pretrain/" for arm in ARMS)
    table = run(program, "compare", "--title", "Two stages, one, or none", "--page", OUT / "ablation.html", *runs,
                env={**os.environ, **environment.store_variables()})
    return f"\nValidation split, best of each run\n\n{table}"


if __name__ == "__main__":
    main(ablation)
