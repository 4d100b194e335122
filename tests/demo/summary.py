"""What came out of the demo, as a table for people and as summary.json for programs."""

import datetime
import json

from bed.steps import Failure

KEYS = {"r1": "r1", "r5": "r5", "r10": "r10", "meanRecall": "mean_recall"}
"""What a status calls it, and what we do."""


def of(runs, seconds, operator_rss, report):
    """The whole summary. Recalls are in percent; `seconds` has setup and total."""
    trainings = [run for run in runs if run.kind == "CnClipTraining"]
    evaluations = [run for run in runs if run.kind == "CnClipEvaluation"]
    stages = [stage for run in trainings for stage in run.stages]
    train = sum(duration(run.status) for run in trainings)
    pairs = sum(stage["samplesSeen"] for stage in stages)
    return {
        "recall": recalls(evaluations[-1]),
        "pairs_seen": pairs,
        "pairs_per_second": round(pairs / train, 1),
        "seconds": {**seconds, "train": round(train, 1)},
        "peak_rss_bytes": {
            "operator": operator_rss,
            "trainer": max(part.get("peakRssBytes", 0) for part in [*stages, *(e.status for e in evaluations)])},
        "report": str(report),
        "trainings": [{"name": run.name, "status": run.status} for run in trainings],
        "evaluations": [{"name": run.name, "status": run.status} for run in evaluations],
    }


def duration(status):
    """From the first pod to the end, in seconds."""
    begin, end = (datetime.datetime.fromisoformat(status[key]) for key in ("startedAt", "finishedAt"))
    return (end - begin).total_seconds()


def recalls(evaluation):
    """Both directions of the evaluation's first task, as numbers."""
    results = evaluation.status.get("results")
    if not results:
        raise Failure(f"{evaluation.name} is complete and its status holds no results.")
    directions = {"text_to_image": "textToImage", "image_to_text": "imageToText"}
    found = results[0]["retrieval"]["recalls"]
    return {ours: {key: float(found[theirs][name]) for name, key in KEYS.items()}
            for ours, theirs in directions.items()}


def write(summary, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=2) + "\n")


def table(summary):
    """The recalls, a row for each direction."""
    rows = ["percent          " + "".join(f"{word:>8}" for word in ("R@1", "R@5", "R@10", "mean"))]
    for direction, recall in summary["recall"].items():
        rows.append(f"{direction.replace('_', ' '):17}" + "".join(f"{recall[key]:8.1f}" for key in KEYS.values()))
    return "\n".join(rows)
