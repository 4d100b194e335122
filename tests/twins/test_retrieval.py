"""The reference's evaluation takes our predictions, and says of them what we say.

`CNCLIP_PROGRAM` names the program that is tested.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import rules

GOLDEN = Path(__file__).parents[2] / "trainer/tests/golden/metrics"
FEATURES = {"images": GOLDEN / "test_imgs.img_feat.jsonl", "texts": GOLDEN / "test_texts.txt_feat.jsonl"}
DIRECTIONS = {
    "text_to_image": ("evaluation", GOLDEN / "test_texts.jsonl", "text_id", "image_ids"),
    "image_to_text": ("evaluation_tr", GOLDEN / "test_texts.tr.jsonl", "image_id", "text_ids"),
}


def score(folder, images, texts, relevance):
    command = [os.environ["CNCLIP_PROGRAM"], "score", "--images", images, "--texts", texts, "--predictions", folder]
    relevance = ["--relevance", relevance] if relevance else []
    return subprocess.run([*map(str, command), *map(str, relevance)], check=True, capture_output=True).stdout


def reference(script, annotations, predictions, to):
    """What the reference's script writes of a file of predictions; it ends with 0 whatever it finds."""
    command = [sys.executable, "-m", f"cn_clip.eval.{script}", annotations, predictions, to]
    subprocess.run(list(map(str, command)), capture_output=True)
    return json.loads(to.read_text())


class Retrieval(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_predictions_are_taken_and_scored_as_we_score_them(self):
        told = json.loads(score(self.folder, *FEATURES.values(), DIRECTIONS["text_to_image"][1]))
        expect = json.loads((GOLDEN / "expect.json").read_text())
        for direction, (script, annotations, query, candidates) in DIRECTIONS.items():
            predictions = self.folder / f"{direction}.jsonl"
            found = rules.score(annotations, predictions, query, candidates)
            ours = json.loads((self.folder / f"{direction}_score.json").read_text())
            theirs = reference(script, annotations, predictions, self.folder / "theirs.json")
            self.assertEqual([ours["success"], theirs["success"]], [True, True], theirs)
            self.assertEqual(ours["scoreJson"].keys(), theirs["scoreJson"].keys())
            self.assertAlmostEqual(ours["score"], theirs["score"], places=9)
            for name, value in found.items():
                for other in (expect[direction], told[direction], ours["scoreJson"], theirs["scoreJson"]):
                    self.assertAlmostEqual(other[name], value, places=9, msg=f"{direction} {name}")

    def test_ids_that_are_names_are_ours_alone(self):
        files = {}
        for kind, path in FEATURES.items():
            key = kind[:-1] + "_id"
            rows = [{**row, key: f"{kind}/{row[key]}.jpg"} for row in rules.lines(path)]
            files[kind] = self.folder / f"{kind}.jsonl"
            files[kind].write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.assertEqual(score(self.folder, *files.values(), None), b"", "without labels no recall is known")
        first = rules.lines(self.folder / "text_to_image.jsonl")[0]
        right = rules.lines(GOLDEN / "test_predictions.jsonl")[0]
        self.assertEqual(first["text_id"], f"texts/{right['text_id']}.jpg")
        self.assertEqual(first["image_ids"], [f"images/{one}.jpg" for one in right["image_ids"]])
        script, annotations, query, candidates = DIRECTIONS["text_to_image"]
        with self.assertRaises(rules.Refused):
            rules.score(annotations, self.folder / "text_to_image.jsonl", query, candidates)
        self.assertFalse((self.folder / "text_to_image_score.json").exists())

    def test_a_pool_of_less_than_ten_is_too_small_for_the_reference(self):
        images = self.folder / "images.jsonl"
        images.write_text("".join(FEATURES["images"].read_text().splitlines(keepends=True)[:9]))
        score(self.folder, images, FEATURES["texts"], None)
        self.assertTrue(all(len(row["image_ids"]) == 9 for row in rules.lines(self.folder / "text_to_image.jsonl")))
        with self.assertRaises(rules.Refused):
            rules.score(DIRECTIONS["text_to_image"][1], self.folder / "text_to_image.jsonl", "text_id", "image_ids")


if __name__ == "__main__":
    unittest.main()
