"""Benchmarks a retrieval evaluation against PyTorch with the same images, texts, weights and CPU cores.

    CNCLIP_PROGRAM=…/cnclip packaging/python tests/parity tests/parity/evaluation_benchmark.py \\
        --data FOLDER --vocab FILE

FOLDER contains `test_imgs.tsv` and `test_texts.jsonl`, as `tests/emoji/build` writes them. Both implementations decode,
resize, tokenize, encode and search, in alternating turns; loading weights is not timed. Prints one line of JSON: the
seconds of each turn, the median ratio of throughputs, and the recalls, which must agree.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from cn_clip.clip import utils
from cn_clip.clip.bert_tokenizer import FullTokenizer
from cn_clip.clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

CONTEXT_LENGTH = 52
ROBERTA = {
    "vocab_size": 21128, "text_attention_probs_dropout_prob": 0.1, "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1, "text_initializer_range": 0.02, "text_max_position_embeddings": 512,
    "text_type_vocab_size": 2,
}
BASE = {**ROBERTA, "text_hidden_size": 768, "text_intermediate_size": 3072, "text_num_attention_heads": 12,
        "text_num_hidden_layers": 12}
SMALL = {**ROBERTA, "text_hidden_size": 768, "text_intermediate_size": 3072, "text_num_attention_heads": 12,
         "text_num_hidden_layers": 3}
PRESETS = {
    "RN50": {"embed_dim": 1024, "image_resolution": 224, "vision_layers": [3, 4, 6, 3], "vision_width": 64,
             "vision_patch_size": None, **SMALL},
    "ViT-B-16": {"embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768,
                 "vision_patch_size": 16, "vision_head_width": 64, **BASE},
}


def main():
    """Runs all turns and prints the result."""
    options = parse_arguments()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        samples = Samples(options, folder)
        model = CLIP(**PRESETS[options.preset]).eval()
        weights = save(model, options.preset, folder / "model")
        # In alternation, so that a change of the machine's load affects both.
        turns = [(samples.evaluate_with_cnclip(weights, options), samples.evaluate_with_pytorch(model, options))
                 for _ in range(options.turns)]
    ours, theirs = zip(*turns, strict=True)
    ratio = statistics.median(their["seconds"] / our["seconds"] for our, their in turns)
    difference = max(abs(our[direction][k] - their[direction][k]) for our, their in turns
                     for direction in ("textToImage", "imageToText") for k in ("r1", "r5", "r10"))
    print(json.dumps({
        "preset": options.preset, "pairs": options.pairs, "batch": options.batch, "threads": torch.get_num_threads(),
        "cnclip": [round(turn["seconds"], 2) for turn in ours],
        "pytorch": [round(turn["seconds"], 2) for turn in theirs],
        "cnclip_pairs_per_second": round(options.pairs / statistics.median(turn["seconds"] for turn in ours), 2),
        "ratio": round(ratio, 3), "recalls_apart": difference, "recalls": ours[0],
    }))


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of test_imgs.tsv and test_texts.jsonl")
    parser.add_argument("--vocab", type=Path, required=True, help="the vocabulary of the published models")
    parser.add_argument("--preset", choices=PRESETS, default="ViT-B-16")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64, help="images or texts that are encoded at once")
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


def save(model, preset, folder):
    """Writes a model as the reference's configuration and state dict; returns the folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PRESETS[preset]))
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


class Samples:
    """The first samples of a data set, for both implementations."""

    def __init__(self, options, folder):
        self.folder = folder
        self.vocab = options.vocab
        self.images = (options.data / "test_imgs.tsv").read_text().splitlines()[:options.pairs]
        image_ids = {line.split("\t")[0] for line in self.images}
        texts = map(json.loads, (options.data / "test_texts.jsonl").read_text().splitlines())
        self.texts = [text for text in texts if image_ids.intersection(map(str, text["image_ids"]))]
        (folder / "images.tsv").write_text("\n".join(self.images) + "\n")
        (folder / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in self.texts))
        run("prepare", "--images", folder / "images.tsv", "--texts", folder / "texts.jsonl",
            "--output", folder / "data")

    def evaluate_with_cnclip(self, weights, options):
        """Seconds and recalls of `cnclip evaluate`."""
        config = {
            "run": {"name": "benchmark", "stage": "evaluate"}, "checkpoint": str(weights), "batchSize": options.batch,
            "vocabulary": {"uri": str(self.vocab), "sha256": digest(self.vocab)}, "artifacts": str(self.folder / "out"),
            "tasks": [{"name": "benchmark", "retrieval": {"dataset": str(self.folder / "data")}}],
        }
        (self.folder / "evaluation.json").write_text(json.dumps(config))
        run("evaluate", "--config", self.folder / "evaluation.json")
        (result,) = json.loads((self.folder / "out/results.json").read_text())["tasks"]
        return {"seconds": result["seconds"], **result["retrieval"]["recalls"]}

    @torch.no_grad()
    def evaluate_with_pytorch(self, model, options):
        """The same of the reference's model, image transform and tokenizer."""
        start = time.monotonic()
        transform = utils.image_transform(PRESETS[options.preset]["image_resolution"])
        image_features = []
        text_features = []
        for batch in batches(self.images, options.batch):
            files = [base64.b64decode(line.split("\t")[1]) for line in batch]
            pixels = torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])
            image_features.append(normalize(model.encode_image(pixels)))
        utils._tokenizer = FullTokenizer(str(self.vocab))
        for batch in batches([text["text"] for text in self.texts], options.batch):
            ids = utils.tokenize([text.lower() for text in batch], CONTEXT_LENGTH)
            text_features.append(normalize(model.encode_text(ids)))
        similarities = torch.cat(text_features) @ torch.cat(image_features).T
        column_of_image = {line.split("\t")[0]: index for index, line in enumerate(self.images)}
        relevant = torch.zeros_like(similarities, dtype=torch.bool)
        for row, text in enumerate(self.texts):
            for image in map(str, text["image_ids"]):
                if image in column_of_image:
                    relevant[row, column_of_image[image]] = True
        text_to_image = recall(similarities, relevant)
        image_to_text = recall(similarities.T, relevant.T)
        return {"seconds": time.monotonic() - start, "textToImage": text_to_image, "imageToText": image_to_text}


def recall(similarities, relevant):
    """The percentage of queries with a relevant candidate among the first k, of those that have one at all."""
    order = similarities.argsort(dim=1, descending=True, stable=True)
    hits = relevant.gather(1, order)[relevant.any(dim=1)]
    return {f"r{k}": 100 * hits[:, :k].any(dim=1).double().mean().item() for k in (1, 5, 10)}


def normalize(features):
    """Scales every row to length 1."""
    return features / features.norm(dim=-1, keepdim=True)


def batches(items, size):
    """Splits a list into batches."""
    return [items[start:start + size] for start in range(0, len(items), size)]


def digest(file):
    """The SHA-256 digest of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(*arguments):
    """Runs the program; exits if it fails."""
    done = subprocess.run([os.environ["CNCLIP_PROGRAM"], *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"cnclip {arguments[0]} exited with {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    main()
