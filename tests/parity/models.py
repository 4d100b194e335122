"""Small models and data that the reference, transformers and cnclip all process."""

import base64
import io
import json
import subprocess
from pathlib import Path
from unittest import mock

import torch
from cn_clip.clip import utils
from cn_clip.clip.bert_tokenizer import FullTokenizer
from cn_clip.clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

TOKENS = "[PAD] [UNK] [CLS] [SEP] [MASK] 猫 狗 的 红 cat dog ##s \" , 。".split()
TEXTS = ["红猫", "Cats, dogs", "狗的\"猫\"。" * 7, "[CLS] 未知 caté"]
CONTEXT_LENGTH = 12

TEXT = {
    "vocab_size": len(TOKENS), "text_attention_probs_dropout_prob": 0.1, "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1, "text_hidden_size": 128, "text_initializer_range": 0.02,
    "text_intermediate_size": 96, "text_max_position_embeddings": 16, "text_num_attention_heads": 2,
    "text_num_hidden_layers": 2, "text_type_vocab_size": 2,
}
VISION = {
    "vit": {"embed_dim": 24, "image_resolution": 48, "vision_layers": 2, "vision_width": 128,
            "vision_patch_size": 16, "vision_head_width": 64},
    "resnet": {"embed_dim": 24, "image_resolution": 64, "vision_layers": [1, 2, 1, 1], "vision_width": 8,
               "vision_patch_size": None},
}


def reference_model(kind):
    """A model of the reference with random weights that are exact in fp16, to which its loader converts them."""
    torch.manual_seed(1)
    model = CLIP(**VISION[kind], **TEXT).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter + 0.05 * torch.randn_like(parameter)).half())
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_((0.1 * torch.randn_like(buffer)).half())
    return model


def save(model, kind, folder):
    """Writes a model as the reference's configuration and state dict; returns the folder."""
    folder.mkdir()
    Path(folder, "config.json").write_text(json.dumps({**VISION[kind], **TEXT}))
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def random_images():
    """Random images of several shapes. None is tall, because Pillow 13 resizes those in another order."""
    torch.manual_seed(2)
    sizes = [(48, 48), (60, 90), (33, 70), (64, 64)]
    return [Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy())
            for height, width in sizes]


class Dataset:
    """Images and texts in the reference's file formats, in a folder, and what cnclip computes from them."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.vocabulary = folder / "vocab.txt"
        self.vocabulary.write_text("".join(f"{token}\n" for token in TOKENS))
        with open(folder / "images.tsv", "w") as file:
            for number, image in enumerate(random_images()):
                encoded = io.BytesIO()
                image.save(encoded, "PNG")
                file.write(f"{number}\t{base64.b64encode(encoded.getvalue()).decode()}\n")
        lines = [json.dumps({"text_id": number, "text": text}) for number, text in enumerate(TEXTS)]
        Path(folder, "texts.jsonl").write_text("\n".join(lines))

    def cnclip(self, *arguments):
        """Runs the program; raises an AssertionError if it fails."""
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"cnclip {arguments} exited with {done.returncode}: {done.stderr}")

    def embed(self, model, *arguments):
        """The features of all images and texts, computed by `cnclip embed`."""
        outputs = [self.folder / "images.jsonl", self.folder / "texts.features.jsonl"]
        self.cnclip("embed", "--model", model, "--images", self.folder / "images.tsv", "--image-features", outputs[0],
                    "--texts", self.folder / "texts.jsonl", "--text-features", outputs[1], "--batch-size", 3,
                    "--context-length", CONTEXT_LENGTH, *arguments)
        rows = [map(json.loads, output.read_text().splitlines()) for output in outputs]
        return [torch.tensor([row["feature"] for row in each]) for each in rows]

    def tokenizer(self):
        """Replaces the vocabulary of the reference's tokenizer by this one during the enclosed work."""
        return mock.patch.object(utils, "_tokenizer", FullTokenizer(str(self.vocabulary)))


def reference_features(model, pixels, ids):
    """Normalized features, computed by the reference."""
    with torch.no_grad():
        return [normalize(model.encode_image(pixels)), normalize(model.encode_text(ids))]


def normalize(features):
    """Scales every row to length 1."""
    return features / features.norm(dim=-1, keepdim=True)
