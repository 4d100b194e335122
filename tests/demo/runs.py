"""The demo's trainings and evaluations as the API server returns them. Reads only."""

import json
from dataclasses import dataclass

from cnclip_build.commands import run

KINDS = "cnclipevaluations,cncliptrainings"


@dataclass(frozen=True)
class Run:
    """A training or an evaluation."""

    object: dict

    @property
    def kind(self):
        """CnClipTraining or CnClipEvaluation."""
        return self.object["kind"]

    @property
    def name(self):
        """The object's name."""
        return self.object["metadata"]["name"]

    @property
    def status(self):
        """The object's status; empty before the first reconcile."""
        return self.object.get("status", {})

    @property
    def stages(self):
        """The status of each stage of a training."""
        return self.status.get("stages", [])

    def has_condition(self, type_):
        """Whether a condition is True."""
        return any(c["type"] == type_ and c["status"] == "True" for c in self.status.get("conditions", []))


def list_runs(environment, namespace):
    """Every run of the namespace: trainings first, each kind by creation time."""
    listed = json.loads(run(*environment.kubectl, "--namespace", namespace, "get", KINDS, "--output", "json"))
    runs = [Run(item) for item in listed["items"]]
    return sorted(runs, key=lambda r: (r.kind != "CnClipTraining", r.object["metadata"]["creationTimestamp"]))


def format_table(environment, namespace):
    """The tables that `kubectl get` prints of both kinds."""
    tables = (run(*environment.kubectl, "--namespace", namespace, "get", kind).rstrip() for kind in ("cct", "cce"))
    return "\n\n".join(filter(None, tables))
