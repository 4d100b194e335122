"""The rules by which the reference scores a file of predictions.

There must be ten different integers for every query in the annotations. A query is a hit at k if one of its first k
predictions is relevant.
"""

import json

CUTOFFS = (1, 5, 10)


class InvalidPredictions(Exception):
    """Predictions that violate the rules."""


def score(annotations, predictions, query, candidates):
    """Recall at 1, 5 and 10 and their mean, in percent."""
    relevant = {row[query]: set(row[candidates]) for row in read_jsonl(annotations)}
    predicted = {}
    for row in read_jsonl(predictions):
        ids = row[candidates]
        if not isinstance(row[query], int) or not all(isinstance(id_, int) for id_ in ids):
            raise InvalidPredictions(f"{row[query]}: an id is not an integer")
        if len(ids) != 10 or len(set(ids)) != 10:
            raise InvalidPredictions(f"{row[query]}: {len(set(ids))} different ids of {len(ids)}, expected ten of ten")
        predicted[row[query]] = ids
    if missing := relevant.keys() - predicted.keys():
        raise InvalidPredictions(f"no predictions for {sorted(missing)}")
    hits = [sum(bool(relevant[id_] & set(predicted[id_][:k])) for id_ in relevant) for k in CUTOFFS]
    recalls = [100 * count / len(relevant) for count in hits]
    return dict(zip(("r1", "r5", "r10", "mean_recall"), (*recalls, sum(recalls) / 3), strict=True))


def read_jsonl(path):
    """The rows of a JSON Lines file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
