"""The reference's evaluation accepts the predictions of `cnclip score` and computes the same recalls.

The environment variable `CNCLIP_PROGRAM` names the program under test.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import recall_rules

GOLDEN = Path(__file__).parents[2] / "trainer/tests/golden/metrics"
FEATURES = {"images": GOLDEN / "test_imgs.img_feat.jsonl", "texts": GOLDEN / "test_texts.txt_feat.jsonl"}
DIRECTIONS = {
    "text_to_image": ("evaluation", GOLDEN / "test_texts.jsonl", "text_id", "image_ids"),
    "image_to_text": ("evaluation_tr", GOLDEN / "test_texts.tr.jsonl", "image_id", "text_ids"),
}


def run_score(folder, images, texts, relevance):
    """Runs `cnclip score`; returns its standard output."""
    command = [os.environ["CNCLIP_PROGRAM"], "score", "--images", images, "--texts", texts, "--predictions", folder]
    relevance = ["--relevance", relevance] if relevance else []
    return subprocess.run([*map(str, command), *map(str, relevance)], check=True, capture_output=True).stdout


def run_reference(script, annotations, predictions, output):
    """The result of the reference's evaluation script, which exits with 0 even for invalid predictions."""
    command = [sys.executable, "-m", f"cn_clip.eval.{script}", annotations, predictions, output]
    subprocess.run(list(map(str, command)), capture_output=True)
    return json.loads(output.read_text())


class Retrieval(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_the_reference_accepts_predictions_and_computes_the_same_recalls(self):
        printed = json.loads(run_score(self.folder, *FEATURES.values(), DIRECTIONS["text_to_image"][1]))
        expected = json.loads((GOLDEN / "expect.json").read_text())
        for direction, (script, annotations, query, candidates) in DIRECTIONS.items():
            predictions = self.folder / f"{direction}.jsonl"
            found = recall_rules.score(annotations, predictions, query, candidates)
            ours = json.loads((self.folder / f"{direction}_score.json").read_text())
            theirs = run_reference(script, annotations, predictions, self.folder / "theirs.json")
            self.assertEqual([ours["success"], theirs["success"]], [True, True], theirs)
            self.assertEqual(ours["scoreJson"].keys(), theirs["scoreJson"].keys())
            self.assertAlmostEqual(ours["score"], theirs["score"], places=9)
            for name, value in found.items():
                for computed in (expected[direction], printed[direction], ours["scoreJson"], theirs["scoreJson"]):
                    self.assertAlmostEqual(computed[name], value, places=9, msg=f"{direction} {name}")

    def test_string_ids_are_supported_here_and_not_by_the_reference(self):
        files = {}
        for kind, path in FEATURES.items():
            key = kind[:-1] + "_id"
            rows = [{**row, key: f"{kind}/{row[key]}.jpg"} for row in recall_rules.read_jsonl(path)]
            files[kind] = self.folder / f"{kind}.jsonl"
            files[kind].write_text("".join(json.dumps(row) + "\n" for row in rows))
        printed = run_score(self.folder, *files.values(), None)
        self.assertEqual(printed, b"", "there are no recalls without relevance labels")
        first = recall_rules.read_jsonl(self.folder / "text_to_image.jsonl")[0]
        expected = recall_rules.read_jsonl(GOLDEN / "test_predictions.jsonl")[0]
        self.assertEqual(first["text_id"], f"texts/{expected['text_id']}.jpg")
        self.assertEqual(first["image_ids"], [f"images/{id_}.jpg" for id_ in expected["image_ids"]])
        script, annotations, query, candidates = DIRECTIONS["text_to_image"]
        with self.assertRaises(recall_rules.InvalidPredictions):
            recall_rules.score(annotations, self.folder / "text_to_image.jsonl", query, candidates)
        self.assertFalse((self.folder / "text_to_image_score.json").exists())

    def test_the_reference_needs_at_least_ten_candidates(self):
        images = self.folder / "images.jsonl"
        images.write_text("".join(FEATURES["images"].read_text().splitlines(keepends=True)[:9]))
        run_score(self.folder, images, FEATURES["texts"], None)
        predictions = self.folder / "text_to_image.jsonl"
        self.assertTrue(all(len(row["image_ids"]) == 9 for row in recall_rules.read_jsonl(predictions)))
        with self.assertRaises(recall_rules.InvalidPredictions):
            recall_rules.score(DIRECTIONS["text_to_image"][1], predictions, "text_id", "image_ids")


if __name__ == "__main__":
    unittest.main()
