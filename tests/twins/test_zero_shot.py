"""Classification by names is worth the same in the reference and here, and its numbers are scikit-learn's.

`CNCLIP_PROGRAM` names the program that is tested. The pictures are real ones, digits and emoji in ELEVATER's layout, and
the reference's image tower learns a little of them first, so that there is something to be right about.
"""

import hashlib
import json
import os
import random
import subprocess
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import cn_clip.clip
import numpy
import torch
from cn_clip.clip import utils
from cn_clip.eval.cvinw_zeroshot_templates import flower_templates
from sklearn import metrics
from torchvision.datasets import ImageFolder

import elevater
import models
from models import VISION, unit

PROJECT = Path(__file__).parents[2]
OWN = PROJECT / "trainer/src/evaluate/zero_shot/templates"
VOCABULARY = Path(cn_clip.clip.__file__).with_name("vocab.txt")
CONTEXT = 52
# The reference's own templates, made into lines as docs/zero-shot.md says.
FLOWER = [template("{}") for template in flower_templates]
# How much the image tower learns.
STEPS, BATCH, LEARNING_RATE = 300, 32, 1e-3
# Of a probability: that of the two features, times what similarities are multiplied with.
TOLERANCE = 1e-4
# Of a number in percent: submissions are rounded to six decimals, and what was not equal before may be.
ROUNDED = 0.02


class ZeroShot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        text = {"vocab_size": len(VOCABULARY.read_text().splitlines()), "text_max_position_embeddings": CONTEXT}
        with mock.patch.dict(models.TEXT, text):
            cls.model = models.reference("vit")
        data = {name: cls.folder / name for name in ["digits", "threes", "pairs", "emoji", "others"]}
        elevater.digits(data["digits"])
        elevater.digits(data["threes"], [3, 8])
        cls.both = elevater.pairs(data["pairs"], 400)
        subprocess.run([PROJECT / "tests/emoji/build", cls.folder / "drawn"], check=True, capture_output=True)
        elevater.emoji(data["emoji"], cls.folder / "drawn")
        elevater.emoji(data["others"], cls.folder / "drawn", split="valid")
        learn(cls.model, [(data["digits"], own("general")), (data["others"], FLOWER)])
        with mock.patch.dict(models.TEXT, text):
            weights = models.save(cls.model, "vit", cls.folder / "model")
        cls.order = list(range(1797))
        random.Random(1).shuffle(cls.order)
        Path(data["digits"], "index.json").write_text(json.dumps(cls.order))
        Path(cls.folder, "flower.txt").write_text("\n".join(FLOWER))
        cls.evaluate(weights, {
            "digits": {"preset": "mnist"}, "threes": {"metric": "rocAuc"}, "pairs": {"metric": "meanAveragePrecision"},
            "emoji": {"metric": "meanPerClass", "templates": str(cls.folder / "flower.txt")},
        })

    @classmethod
    def evaluate(cls, weights, tasks):
        tasks = [{"name": name, "zeroShot": {"dataset": str(cls.folder / name), **more}} for name, more in tasks.items()]
        config = {
            "run": {"name": "twin", "stage": "evaluate"}, "checkpoint": str(weights), "batchSize": 100, "tasks": tasks,
            "artifacts": str(cls.folder / "out"),
            "vocabulary": {"uri": str(VOCABULARY), "sha256": hashlib.sha256(VOCABULARY.read_bytes()).hexdigest()},
        }
        Path(cls.folder, "evaluation.json").write_text(json.dumps(config))
        done = subprocess.run([os.environ["CNCLIP_PROGRAM"], "evaluate", "--config", cls.folder / "evaluation.json"],
                              capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"cnclip evaluate ended with {done.returncode}: {done.stderr}")
        results = json.loads(Path(cls.folder, "out/results.json").read_text())
        cls.results = {result["name"]: result["zeroShot"] for result in results["tasks"]}

    @torch.no_grad()
    def reference(self, name, templates):
        """Classes and probabilities of all pictures by the reference's model, tokenizer and picture preparation."""
        found = pictures(self.folder / name)
        features = [unit(self.model.encode_image(pixels)) for pixels, _ in torch.utils.data.DataLoader(found, 100)]
        vectors = classes(self.model, self.folder / name, templates)
        return found, (100 * torch.cat(features) @ vectors.T).softmax(dim=1).numpy()

    def check(self, name, templates, called):
        """Compares a task with the reference and with scikit-learn; its classes, predictions and results."""
        folder = self.folder / "out/tasks" / name
        submission = json.loads((folder / "submission.json").read_text())
        predictions = numpy.array(submission["predictions"][0])
        files, right = self.reference(name, templates)
        if name == "digits":
            predictions = predictions[numpy.argsort(self.order)]
        worst = numpy.abs(predictions - right).max()
        print(f"{name}: probabilities differ by {worst:.1e} at most, the largest is {right.max():.2f}; {self.results[name]}")
        self.assertLess(worst, TOLERANCE)
        self.assertEqual((submission["dataset_name"], submission["n_shot"], submission["rnd_seeds"]), (called, 0, [123]))
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        visual = sum(parameter.numel() for parameter in self.model.visual.parameters())
        self.assertEqual((submission["num_params"], submission["num_visual_params"]), (parameters, visual))
        result, targets = self.results[name], numpy.array(files.targets)
        found = predictions.argmax(axis=1)
        self.near(result["accuracy"], metrics.accuracy_score(targets, found))
        self.near(result["meanPerClass"], metrics.balanced_accuracy_score(targets, found))
        labels = list(range(predictions.shape[1]))
        if len(labels) > 5:
            self.near(result["top5"], metrics.top_k_accuracy_score(targets, predictions, k=5, labels=labels))
        shown = json.loads((folder / "classes.json").read_text())
        confusion = numpy.array(shown["confusion"])
        self.assertLessEqual(numpy.abs(confusion - metrics.confusion_matrix(targets, found)).sum(), 2, "but for rounding")
        both = self.both if name == "pairs" else {}
        own = [both.get(str(Path(file).relative_to(self.folder / name)), [target]) for file, target in files.samples]
        several = numpy.array([[label in each for label in labels] for each in own])
        precisions = [interpolated(several[:, label], predictions[:, label]) for label in labels]
        self.near(result["meanAveragePrecision"], numpy.mean(precisions))
        return targets, predictions, result

    def near(self, found, right):
        self.assertAlmostEqual(found, 100 * right, delta=ROUNDED)

    def test_digits_with_our_templates_in_an_order_of_their_own(self):
        _, _, result = self.check("digits", own("general"), "mnist")
        self.assertEqual((result["headline"], result["classes"]), ("accuracy", 10))
        self.assertGreater(result["accuracy"], 60, "they were learned")

    def test_two_digits_have_an_area_under_the_curve(self):
        targets, predictions, result = self.check("threes", own("general"), "threes")
        self.near(result["rocAuc"], metrics.roc_auc_score(targets, predictions[:, 1]))
        self.assertEqual(result["headline"], "rocAuc")
        self.assertGreater(result["rocAuc"], 80, "they were learned")

    def test_pictures_of_two_digits_have_two_classes(self):
        self.check("pairs", own("general"), "pairs")

    def test_emoji_with_the_references_templates(self):
        _, _, result = self.check("emoji", FLOWER, "emoji")
        self.assertEqual((result["headline"], result["classes"]), ("meanPerClass", 9))
        self.assertGreater(result["accuracy"], 15, "it knows emoji as others draw them")


def pictures(folder):
    return ImageFolder(folder / "test", utils.image_transform(VISION["vit"]["image_resolution"]))


@torch.no_grad()
def classes(model, folder, templates):
    """The vectors of a data set's classes by the reference's model and tokenizer."""
    vectors = []
    for line in Path(folder, "label_cn.txt").read_text().splitlines():
        texts = [template.replace("{}", line).lower() for template in templates]
        vectors.append(unit(unit(model.encode_text(utils.tokenize(texts, CONTEXT))).mean(dim=0)))
    return torch.stack(vectors)


def learn(model, sets):
    """Teaches an image tower data sets with templates for their names, in turns."""
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(model.visual.parameters(), lr=LEARNING_RATE)
    sets = [(list(pictures(folder)), classes(model, folder, templates)) for folder, templates in sets]
    for step in range(STEPS):
        found, vectors = sets[step % len(sets)]
        pixels, labels = zip(*random.Random(step).sample(found, BATCH), strict=True)
        scores = 100 * unit(model.encode_image(torch.stack(pixels))) @ vectors.T
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def own(name):
    lines = (OWN / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def interpolated(right, scores):
    """The 11-point average precision, over scikit-learn's curve."""
    with warnings.catch_warnings(action="ignore"):
        precision, recall, _ = metrics.precision_recall_curve(right, scores)
    return numpy.mean([precision[recall >= least].max() for least in numpy.linspace(1, 0, 11)])


if __name__ == "__main__":
    unittest.main()
