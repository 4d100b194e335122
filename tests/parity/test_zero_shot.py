"""Zero-shot classification gives the reference's probabilities, and its metrics are scikit-learn's.

The environment variable `CNCLIP_PROGRAM` names the program under test. The images are real ones, digits and emoji in
ELEVATER's layout, and the reference's image tower is trained on some of them first: metrics of a random model would be
the same for many wrong programs.
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

import elevater_data
import models
from models import VISION, normalize

PROJECT = Path(__file__).parents[2]
TEMPLATES = PROJECT / "trainer/src/evaluate/zero_shot/templates"
VOCABULARY = Path(cn_clip.clip.__file__).with_name("vocab.txt")
CONTEXT_LENGTH = 52
# Templates of the reference, as text with a placeholder, which docs/zero-shot.md describes.
FLOWER_TEMPLATES = [template("{}") for template in flower_templates]
# Of the training of the image tower.
STEPS, BATCH, LEARNING_RATE = 300, 32, 1e-3
# Of a probability: the tolerance of the features, 1e-5, times the scale of the logits.
TOLERANCE = 1e-4
# Of a metric in percent: submissions are rounded to six decimals, which can make unequal scores equal.
METRIC_TOLERANCE = 0.02


class ZeroShot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        text = {"vocab_size": len(VOCABULARY.read_text().splitlines()), "text_max_position_embeddings": CONTEXT_LENGTH}
        with mock.patch.dict(models.TEXT, text):
            cls.model = models.reference_model("vit")
        data = {name: cls.folder / name for name in ["digits", "threes", "pairs", "emoji", "others"]}
        elevater_data.write_digits(data["digits"])
        elevater_data.write_digits(data["threes"], [3, 8])
        cls.pair_classes = elevater_data.write_digit_pairs(data["pairs"], 400)
        subprocess.run([PROJECT / "tests/emoji/build", cls.folder / "emoji-source"], check=True, capture_output=True)
        elevater_data.write_emoji(data["emoji"], cls.folder / "emoji-source")
        elevater_data.write_emoji(data["others"], cls.folder / "emoji-source", split="valid")
        train(cls.model, [(data["digits"], project_templates("general")), (data["others"], FLOWER_TEMPLATES)])
        with mock.patch.dict(models.TEXT, text):
            weights = models.save(cls.model, "vit", cls.folder / "model")
        cls.order = list(range(1797))
        random.Random(1).shuffle(cls.order)
        Path(data["digits"], "index.json").write_text(json.dumps(cls.order))
        Path(cls.folder, "flower.txt").write_text("\n".join(FLOWER_TEMPLATES))
        cls.evaluate(weights, {
            "digits": {"preset": "mnist"}, "threes": {"metric": "rocAuc"}, "pairs": {"metric": "meanAveragePrecision"},
            "emoji": {"metric": "meanPerClass", "templates": str(cls.folder / "flower.txt")},
        })

    @classmethod
    def evaluate(cls, weights, tasks):
        """Runs `cnclip evaluate` on the tasks and keeps their results."""
        tasks = [{"name": name, "zeroShot": {"dataset": str(cls.folder / name), **fields}}
                 for name, fields in tasks.items()]
        config = {
            "run": {"name": "parity", "stage": "evaluate"}, "checkpoint": str(weights), "batchSize": 100,
            "tasks": tasks, "artifacts": str(cls.folder / "out"),
            "vocabulary": {"uri": str(VOCABULARY), "sha256": hashlib.sha256(VOCABULARY.read_bytes()).hexdigest()},
        }
        Path(cls.folder, "evaluation.json").write_text(json.dumps(config))
        done = subprocess.run([os.environ["CNCLIP_PROGRAM"], "evaluate", "--config", cls.folder / "evaluation.json"],
                              capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"cnclip evaluate exited with {done.returncode}: {done.stderr}")
        results = json.loads(Path(cls.folder, "out/results.json").read_text())
        cls.results = {result["name"]: result["zeroShot"] for result in results["tasks"]}

    @torch.no_grad()
    def reference(self, name, templates):
        """The data set and the probabilities of all its images by the reference's model, tokenizer and transform."""
        images = load_images(self.folder / name)
        batches = torch.utils.data.DataLoader(images, 100)
        features = [normalize(self.model.encode_image(pixels)) for pixels, _ in batches]
        vectors = class_vectors(self.model, self.folder / name, templates)
        return images, (100 * torch.cat(features) @ vectors.T).softmax(dim=1).numpy()

    def check(self, name, templates, dataset_name):
        """Compares a task with the reference and scikit-learn; returns its classes, predictions and results."""
        folder = self.folder / "out/tasks" / name
        submission = json.loads((folder / "submission.json").read_text())
        predictions = numpy.array(submission["predictions"][0])
        images, expected = self.reference(name, templates)
        if name == "digits":
            predictions = predictions[numpy.argsort(self.order)]
        worst = numpy.abs(predictions - expected).max()
        print(f"{name}: the largest difference of probabilities is {worst:.1e}, the largest probability "
              f"{expected.max():.2f}; {self.results[name]}")
        self.assertLess(worst, TOLERANCE)
        header = (submission["dataset_name"], submission["n_shot"], submission["rnd_seeds"])
        self.assertEqual(header, (dataset_name, 0, [123]))
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        visual = sum(parameter.numel() for parameter in self.model.visual.parameters())
        self.assertEqual((submission["num_params"], submission["num_visual_params"]), (parameters, visual))
        result = self.results[name]
        targets = numpy.array(images.targets)
        found = predictions.argmax(axis=1)
        self.assert_metric(result["accuracy"], metrics.accuracy_score(targets, found))
        self.assert_metric(result["meanPerClass"], metrics.balanced_accuracy_score(targets, found))
        labels = list(range(predictions.shape[1]))
        if len(labels) > 5:
            self.assert_metric(result["top5"], metrics.top_k_accuracy_score(targets, predictions, k=5, labels=labels))
        confusion = numpy.array(json.loads((folder / "classes.json").read_text())["confusion"])
        difference = numpy.abs(confusion - metrics.confusion_matrix(targets, found)).sum()
        self.assertLessEqual(difference, 2, "one image may be classified otherwise because of rounding")
        pair_classes = self.pair_classes if name == "pairs" else {}
        image_classes = [pair_classes.get(str(Path(file).relative_to(self.folder / name)), [target])
                         for file, target in images.samples]
        multi_hot = numpy.array([[label in classes for label in labels] for classes in image_classes])
        precisions = [interpolated_precision(multi_hot[:, label], predictions[:, label]) for label in labels]
        self.assert_metric(result["meanAveragePrecision"], numpy.mean(precisions))
        return targets, predictions, result

    def assert_metric(self, found, expected):
        """Compares a metric in percent with an expected fraction."""
        self.assertAlmostEqual(found, 100 * expected, delta=METRIC_TOLERANCE)

    def test_digits_in_a_custom_order(self):
        _, _, result = self.check("digits", project_templates("general"), "mnist")
        self.assertEqual((result["headline"], result["classes"]), ("accuracy", 10))
        self.assertGreater(result["accuracy"], 60, "the model was trained on them")

    def test_two_classes_have_an_area_under_the_roc_curve(self):
        targets, predictions, result = self.check("threes", project_templates("general"), "threes")
        self.assert_metric(result["rocAuc"], metrics.roc_auc_score(targets, predictions[:, 1]))
        self.assertEqual(result["headline"], "rocAuc")
        self.assertGreater(result["rocAuc"], 80, "the model was trained on them")

    def test_images_of_two_digits_belong_to_two_classes(self):
        self.check("pairs", project_templates("general"), "pairs")

    def test_emoji_with_templates_of_the_reference(self):
        _, _, result = self.check("emoji", FLOWER_TEMPLATES, "emoji")
        self.assertEqual((result["headline"], result["classes"]), ("meanPerClass", 9))
        self.assertGreater(result["accuracy"], 15, "the model was trained on other vendors' emoji")


def load_images(folder):
    """The images of a data set, transformed as the reference does."""
    return ImageFolder(folder / "test", utils.image_transform(VISION["vit"]["image_resolution"]))


@torch.no_grad()
def class_vectors(model, folder, templates):
    """The classifier weights of a data set's classes, by the reference's model and tokenizer."""
    vectors = []
    for name in Path(folder, "label_cn.txt").read_text().splitlines():
        texts = [template.replace("{}", name).lower() for template in templates]
        vectors.append(normalize(normalize(model.encode_text(utils.tokenize(texts, CONTEXT_LENGTH))).mean(dim=0)))
    return torch.stack(vectors)


def train(model, sets):
    """Trains an image tower on data sets in turn, each with the templates of its class names."""
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(model.visual.parameters(), lr=LEARNING_RATE)
    sets = [(list(load_images(folder)), class_vectors(model, folder, templates)) for folder, templates in sets]
    for step in range(STEPS):
        images, vectors = sets[step % len(sets)]
        pixels, labels = zip(*random.Random(step).sample(images, BATCH), strict=True)
        scores = 100 * normalize(model.encode_image(torch.stack(pixels))) @ vectors.T
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def project_templates(name):
    """The templates of one of the project's files."""
    lines = (TEMPLATES / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def interpolated_precision(labels, scores):
    """The 11-point interpolated average precision, from scikit-learn's precision-recall curve."""
    with warnings.catch_warnings(action="ignore"):
        precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return numpy.mean([precision[recall >= threshold].max() for threshold in numpy.linspace(1, 0, 11)])


if __name__ == "__main__":
    unittest.main()
