"""The paper's ablation in miniature: from scratch, without a first stage, and in two stages, side by side."""

import json
import os
import time

from bed import images
from bed.processes import run
from bed.steps import main, since

from . import summary, watch
from .house import NAMESPACE, apply, house

OUT = images.PROJECT / "target/ablation"
ARMS = ("scratch", "image-init", "two-stage")
"""Manifests and runs; each has as many steps as the others."""


def ablation():
    begin = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    with house() as where:
        # One after the other: side by side they would share the processors, and their speeds say nothing.
        for name in ("english.yaml", *(f"ablation/{arm}.yaml" for arm in ARMS)):
            apply(where, name)
            seen = watch.until_done(where, NAMESPACE, lambda: None)
        tell(seen)
        print(compare(where))
    print(f"summary  {OUT / 'summary.json'}\npage     {OUT / 'ablation.html'}\nablation: done in {since(begin)}")


def tell(seen):
    """The recalls on the vendor that no run has seen, in percent."""
    found = {each.name: summary.recalls(each) for each in seen if each.kind == "CnClipEvaluation"}
    (OUT / "summary.json").write_text(json.dumps({"recall": found}, indent=2) + "\n")
    print("\nThe unseen vendor")
    for arm in ARMS:
        print(f"\n{arm}\n{summary.table({'recall': found[arm]})}")


def compare(where):
    """Draws the curves of validation; the table beside them."""
    program = images.compile_release() / images.PROGRAMS["trainer"]
    places = (f"{arm}={where.root}/runs/{arm}/pretrain/" for arm in ARMS)
    table = run(program, "compare", "--title", "Two stages, one, or none", "--page", OUT / "ablation.html", *places,
                env={**os.environ, **where.store_environment()})
    return f"\nThe validation vendor, best of each run\n\n{table}"


if __name__ == "__main__":
    main(ablation)
