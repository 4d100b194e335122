"""The results of the demo: a table for the terminal and summary.json for programs."""

import datetime
import json

from cnclip_build.progress import Failure

RECALL_KEYS = {"r1": "r1", "r5": "r5", "r10": "r10", "meanRecall": "mean_recall"}
"""The names of the recalls in a status, and in the summary."""


def summarize(runs, seconds, operator_rss, report):
    """The content of summary.json. Recalls are in percent; `seconds` holds setup and total."""
    trainings = [run for run in runs if run.kind == "CnClipTraining"]
    evaluations = [run for run in runs if run.kind == "CnClipEvaluation"]
    stages = [stage for run in trainings for stage in run.stages]
    training_seconds = sum(duration(run.status) for run in trainings)
    samples = sum(stage["samplesSeen"] for stage in stages)
    trainer_rss = max(part.get("peakRssBytes", 0) for part in [*stages, *(run.status for run in evaluations)])
    return {
        "recall": recalls(evaluations[-1]),
        "pairs_seen": samples,
        "pairs_per_second": round(samples / training_seconds, 1),
        "seconds": {**seconds, "train": round(training_seconds, 1)},
        "peak_rss_bytes": {"operator": operator_rss, "trainer": trainer_rss},
        "report": str(report),
        "trainings": [{"name": run.name, "status": run.status} for run in trainings],
        "evaluations": [{"name": run.name, "status": run.status} for run in evaluations],
    }


def duration(status):
    """The seconds from the start of a run's first pod to the run's end."""
    started, finished = (datetime.datetime.fromisoformat(status[key]) for key in ("startedAt", "finishedAt"))
    return (finished - started).total_seconds()


def recalls(evaluation):
    """The recalls of an evaluation's first task in both directions, as numbers."""
    results = evaluation.status.get("results")
    if not results:
        raise Failure(f"{evaluation.name} is complete, but its status has no results.")
    directions = {"text_to_image": "textToImage", "image_to_text": "imageToText"}
    found = results[0]["retrieval"]["recalls"]
    return {direction: {key: float(found[status_direction][name]) for name, key in RECALL_KEYS.items()}
            for direction, status_direction in directions.items()}


def write(summary, path):
    """Writes a summary as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=2) + "\n")


def format_table(summary):
    """The recalls as text, a row for each direction."""
    rows = ["percent          " + "".join(f"{heading:>8}" for heading in ("R@1", "R@5", "R@10", "mean"))]
    for direction, recall in summary["recall"].items():
        values = "".join(f"{recall[key]:8.1f}" for key in RECALL_KEYS.values())
        rows.append(f"{direction.replace('_', ' '):17}{values}")
    return "\n".join(rows)
