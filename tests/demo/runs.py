"""The demo's runs as the cluster knows them: what stands where, and what came out. Asks, never changes."""

import json
from dataclasses import dataclass

from bed.processes import run

KINDS = "cnclipevaluations,cncliptrainings"


@dataclass(frozen=True)
class Run:
    """A training or an evaluation."""

    object: dict

    @property
    def kind(self):
        return self.object["kind"]

    @property
    def name(self):
        return self.object["metadata"]["name"]

    @property
    def status(self):
        return self.object.get("status", {})

    @property
    def stages(self):
        return self.status.get("stages", [])

    def is_true(self, condition):
        """Whether the operator says so."""
        return any(c["type"] == condition and c["status"] == "True" for c in self.status.get("conditions", []))

    def word(self):
        """How it ended, or that it has not."""
        return next((word for word in ("Complete", "Failed") if self.is_true(word)), "Running")


def observe(place, namespace):
    """Every run of the namespace, trainings first, in the order of their making."""
    answer = json.loads(run(*place.kubectl, "--namespace", namespace, "get", KINDS, "--output", "json"))
    runs = [Run(item) for item in answer["items"]]
    return sorted(runs, key=lambda r: (r.kind != "CnClipTraining", r.object["metadata"]["creationTimestamp"]))


def table(place, namespace):
    """What a user sees."""
    tables = (run(*place.kubectl, "--namespace", namespace, "get", kind).rstrip() for kind in ("cct", "cce"))
    return "\n\n".join(filter(None, tables))
