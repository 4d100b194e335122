"""The rules by which the reference scores a file of predictions: ten different whole numbers for every query that
the annotations name, and a query is a hit at k if one of the first k is right."""

import json

PLACES = (1, 5, 10)


class Refused(Exception):
    """Predictions that the rules do not allow."""


def score(annotations, predictions, query, candidates):
    """Recall at 1, 5 and 10 and their mean, in percent."""
    right = {row[query]: set(row[candidates]) for row in lines(annotations)}
    found = {}
    for row in lines(predictions):
        ids = row[candidates]
        if not isinstance(row[query], int) or not all(isinstance(one, int) for one in ids):
            raise Refused(f"{row[query]}: an id is no whole number")
        if len(ids) != 10 or len(set(ids)) != 10:
            raise Refused(f"{row[query]}: {len(set(ids))} different of {len(ids)} predictions, not ten")
        found[row[query]] = ids
    if missing := right.keys() - found.keys():
        raise Refused(f"nothing is predicted for {sorted(missing)}")
    hits = [sum(bool(right[one] & set(found[one][:place])) for one in right) for place in PLACES]
    recalls = [100 * count / len(right) for count in hits]
    return dict(zip(("r1", "r5", "r10", "mean_recall"), (*recalls, sum(recalls) / 3), strict=True))


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
