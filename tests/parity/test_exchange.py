"""Models have the same features in transformers, in the reference and in cnclip, whichever of them wrote the files.

The environment variable `CNCLIP_PROGRAM` names the program under test.
"""

import contextlib
import io
import json
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from cn_clip.clip import utils
from transformers import (BertTokenizer, ChineseCLIPConfig, ChineseCLIPImageProcessorPil, ChineseCLIPModel,
                          ChineseCLIPProcessor)

import models
from models import CONTEXT_LENGTH, TEXTS, VISION, Dataset, normalize, reference_features

TOLERANCE = 1e-5


class Exchange(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.data = Dataset(os.environ["CNCLIP_PROGRAM"], self.folder)

    def assert_same_features(self, found, expected):
        for kind, found, expected in zip(["images", "texts"], found, expected, strict=True):
            self.assertEqual(found.shape, expected.shape)
            worst = (found - expected).abs().max().item()
            print(f"{self.id().split('.')[-1]}: the largest difference of features of {kind} is {worst:.1e}")
            self.assertLess(worst, TOLERANCE)

    def inputs(self, kind):
        """Pixels and token IDs, computed by the reference."""
        transform = utils.image_transform(VISION[kind]["image_resolution"])
        with self.data.tokenizer():
            ids = utils.tokenize([text.lower() for text in TEXTS], CONTEXT_LENGTH)
        return torch.stack([transform(image) for image in models.random_images()]), ids

    def export(self, kind, layout):
        """Exports a model of the reference; returns the folders of the original and of the export."""
        original = models.save(models.reference_model(kind), kind, self.folder / kind)
        exported = self.folder / layout
        self.data.cnclip("export", "--model", original, "--format", layout, "--to", exported,
                         "--vocab", self.data.vocabulary)
        return original, exported

    def test_transformers_loads_an_exported_folder(self):
        original, folder = self.export("vit", "huggingface")
        model, loaded = ChineseCLIPModel.from_pretrained(folder, output_loading_info=True)
        self.assertFalse(any(loaded.values()), loaded)
        processor = ChineseCLIPProcessor.from_pretrained(folder)
        # The reference resizes with Pillow; the default image processor of transformers resizes with torchvision.
        images = ChineseCLIPImageProcessorPil.from_pretrained(folder)(models.random_images(), return_tensors="pt")
        default = processor(images=models.random_images(), return_tensors="pt")
        self.assertLess((images["pixel_values"] - default["pixel_values"]).abs().max(), 0.1)
        texts = processor(text=TEXTS[:3], return_tensors="pt", padding=True, truncation=True, max_length=CONTEXT_LENGTH)
        pixels, ids = self.inputs("vit")
        self.assertTrue(torch.equal(texts["input_ids"], ids[:3, :texts["input_ids"].shape[1]]))
        self.assertLess((images["pixel_values"] - pixels).abs().max(), 1e-5)
        expected = transformers_features(model.eval(), images["pixel_values"], ids)
        self.assert_same_features(self.data.embed(original, "--vocab", self.data.vocabulary), expected)
        self.assert_same_features(self.data.embed(folder), expected)

    def test_cn_clip_loads_an_exported_vit(self):
        self.check_cn_clip_loads("vit")

    def test_cn_clip_loads_an_exported_resnet(self):
        self.check_cn_clip_loads("resnet")

    def check_cn_clip_loads(self, kind):
        original, folder = self.export(kind, "ofa")
        (file,) = folder.glob("*.pt")
        configurations = self.folder / "model_configs"
        configurations.mkdir()
        Path(configurations, "small-image.json").write_text(json.dumps(VISION[kind]))
        Path(configurations, "small-text.json").write_text(json.dumps(models.TEXT))
        # The reference looks for model configurations next to its own source file.
        patched_path = mock.patch.object(utils, "__file__", str(self.folder / "utils.py"))
        with patched_path, contextlib.redirect_stdout(io.StringIO()):
            model, transform = utils.load_from_name(str(file), "cpu", None, "small-image", "small-text",
                                                    VISION[kind]["image_resolution"])
        pixels, ids = torch.stack([transform(image) for image in models.random_images()]), self.inputs(kind)[1]
        expected = reference_features(model.eval(), pixels, ids)
        self.assert_same_features(self.data.embed(original, "--vocab", self.data.vocabulary), expected)
        self.assert_same_features(self.data.embed(file, "--vocab", self.data.vocabulary), expected)

    def test_a_folder_that_transformers_saved_is_read(self):
        torch.manual_seed(3)
        text = {"vocab_size": len(models.TOKENS), "hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 2,
                "intermediate_size": 40, "max_position_embeddings": 16}
        vision = {"hidden_size": 20, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 80,
                  "image_size": VISION["vit"]["image_resolution"], "patch_size": 8}
        config = ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=7, initializer_factor=3.0)
        model = ChineseCLIPModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        folder = self.folder / "saved"
        model.save_pretrained(folder)
        BertTokenizer(str(self.data.vocabulary)).save_pretrained(folder)
        expected = transformers_features(model, *self.inputs("vit"))
        self.assert_same_features(self.data.embed(folder, "--vocab", self.data.vocabulary), expected)

    def test_a_checkpoint_that_torch_saved_is_read(self):
        for kind in VISION:
            model = models.reference_model(kind)
            file = self.folder / f"{kind}.pt"
            state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
            torch.save({"epoch": 3, "step": 70, "name": "x", "state_dict": state, "optimizer": {"state": {}}}, file)
            expected = reference_features(model, *self.inputs(kind))
            self.assert_same_features(self.data.embed(file, "--vocab", self.data.vocabulary), expected)


def transformers_features(model, pixels, ids):
    """Normalized features, computed by transformers."""
    with torch.no_grad():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
    return [normalize(images), normalize(texts)]


if __name__ == "__main__":
    unittest.main()
