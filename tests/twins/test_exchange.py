"""A model is worth the same in transformers, in the reference and here, whoever wrote it.

`CNCLIP_PROGRAM` names the program that is tested.
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
from models import CONTEXT, TEXTS, VISION, Data, features, unit

TOLERANCE = 1e-5


class Exchange(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.data = Data(os.environ["CNCLIP_PROGRAM"], self.folder)

    def assert_same(self, found, right):
        for kind, found, right in zip(["images", "texts"], found, right, strict=True):
            self.assertEqual(found.shape, right.shape)
            worst = (found - right).abs().max().item()
            print(f"{self.id().split('.')[-1]}: features of {kind} differ by {worst:.1e} at most")
            self.assertLess(worst, TOLERANCE)

    def inputs(self, kind):
        """Pixels and ids as the reference makes them."""
        transform = utils.image_transform(VISION[kind]["image_resolution"])
        with self.data.tokenizer():
            ids = utils.tokenize([text.lower() for text in TEXTS], CONTEXT)
        return torch.stack([transform(image) for image in models.images()]), ids

    def export(self, kind, layout):
        model = models.save(models.reference(kind), kind, self.folder / kind)
        to = self.folder / layout
        self.data.cnclip("export", "--model", model, "--format", layout, "--to", to, "--vocab", self.data.vocabulary)
        return model, to

    def test_transformers_loads_an_exported_folder(self):
        ours, folder = self.export("vit", "huggingface")
        model, loaded = ChineseCLIPModel.from_pretrained(folder, output_loading_info=True)
        self.assertFalse(any(loaded.values()), loaded)
        processor = ChineseCLIPProcessor.from_pretrained(folder)
        # The arithmetic of Pillow, as the reference's; the usual one is torchvision's.
        pictures = ChineseCLIPImageProcessorPil.from_pretrained(folder)(models.images(), return_tensors="pt")
        usual = processor(images=models.images(), return_tensors="pt")
        self.assertLess((pictures["pixel_values"] - usual["pixel_values"]).abs().max(), 0.1)
        texts = processor(text=TEXTS[:3], return_tensors="pt", padding=True, truncation=True, max_length=CONTEXT)
        pixels, ids = self.inputs("vit")
        self.assertTrue(torch.equal(texts["input_ids"], ids[:3, :texts["input_ids"].shape[1]]))
        self.assertLess((pictures["pixel_values"] - pixels).abs().max(), 1e-5)
        right = transformers_features(model.eval(), pictures["pixel_values"], ids)
        self.assert_same(self.data.embed(ours, "--vocab", self.data.vocabulary), right)
        self.assert_same(self.data.embed(folder), right)

    def test_cn_clip_loads_an_exported_vit(self):
        self.cn_clip_loads("vit")

    def test_cn_clip_loads_an_exported_resnet(self):
        self.cn_clip_loads("resnet")

    def cn_clip_loads(self, kind):
        ours, folder = self.export(kind, "ofa")
        (file,) = folder.glob("*.pt")
        configurations = self.folder / "model_configs"
        configurations.mkdir()
        Path(configurations, "small-image.json").write_text(json.dumps(VISION[kind]))
        Path(configurations, "small-text.json").write_text(json.dumps(models.TEXT))
        # It looks for the configurations of its own models beside its own source.
        beside = mock.patch.object(utils, "__file__", str(self.folder / "utils.py"))
        with beside, contextlib.redirect_stdout(io.StringIO()):
            model, transform = utils.load_from_name(str(file), "cpu", None, "small-image", "small-text",
                                                    VISION[kind]["image_resolution"])
        pixels, ids = torch.stack([transform(image) for image in models.images()]), self.inputs(kind)[1]
        right = features(model.eval(), pixels, ids)
        self.assert_same(self.data.embed(ours, "--vocab", self.data.vocabulary), right)
        self.assert_same(self.data.embed(file, "--vocab", self.data.vocabulary), right)

    def test_a_folder_that_transformers_saved_is_read(self):
        torch.manual_seed(3)
        text = {"vocab_size": len(models.WORDS), "hidden_size": 36, "num_attention_heads": 3, "num_hidden_layers": 2,
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
        right = transformers_features(model, *self.inputs("vit"))
        self.assert_same(self.data.embed(folder, "--vocab", self.data.vocabulary), right)

    def test_a_checkpoint_that_torch_saved_is_read(self):
        for kind in VISION:
            model = models.reference(kind)
            file = self.folder / f"{kind}.pt"
            state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
            torch.save({"epoch": 3, "step": 70, "name": "x", "state_dict": state, "optimizer": {"state": {}}}, file)
            right = features(model, *self.inputs(kind))
            self.assert_same(self.data.embed(file, "--vocab", self.data.vocabulary), right)


def transformers_features(model, pixels, ids):
    with torch.no_grad():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
    return [unit(images), unit(texts)]


if __name__ == "__main__":
    unittest.main()
