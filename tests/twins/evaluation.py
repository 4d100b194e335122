"""How fast a model is scored on pairs, ours against PyTorch in one run: the same pictures, texts, weights and cores.

    CNCLIP_PROGRAM=…/cnclip tests/python tests/twins tests/twins/evaluation.py --data FOLDER --vocab FILE

FOLDER holds `test_imgs.tsv` and `test_texts.jsonl`, as `tests/emoji/build` makes them. Both sides decode, resize,
tokenize, encode and search, in turns; loading weights is not counted. Prints one line of JSON: seconds of each turn, the
median ratio of pairs a second, and the recalls, which must agree.
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

CONTEXT = 52
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
    chosen = command_line()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pairs = Pairs(chosen, folder)
        model = CLIP(**PRESETS[chosen.preset]).eval()
        weights = save(model, chosen.preset, folder / "model")
        turns = [(pairs.by_cnclip(weights, chosen), pairs.by_pytorch(model, chosen)) for _ in range(chosen.turns)]
    ours, theirs = zip(*turns, strict=True)
    ratio = statistics.median(their["seconds"] / our["seconds"] for our, their in turns)
    apart = max(abs(our[way][k] - their[way][k]) for our, their in turns
                for way in ("textToImage", "imageToText") for k in ("r1", "r5", "r10"))
    print(json.dumps({
        "preset": chosen.preset, "pairs": chosen.pairs, "batch": chosen.batch, "threads": torch.get_num_threads(),
        "cnclip": [round(turn["seconds"], 2) for turn in ours], "pytorch": [round(turn["seconds"], 2) for turn in theirs],
        "cnclip_pairs_per_second": round(chosen.pairs / statistics.median(turn["seconds"] for turn in ours), 2),
        "ratio": round(ratio, 3), "recalls_apart": apart, "recalls": ours[0],
    }))


def command_line():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of test_imgs.tsv and test_texts.jsonl")
    parser.add_argument("--vocab", type=Path, required=True, help="the vocabulary of the published models")
    parser.add_argument("--preset", choices=PRESETS, default="ViT-B-16")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64, help="pictures or texts encoded at once")
    parser.add_argument("--turns", type=int, default=3)
    return parser.parse_args()


def save(model, preset, folder):
    """Writes a model as the reference's arguments and state dict."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PRESETS[preset]))
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


class Pairs:
    """The first pairs of a data set, for both sides."""

    def __init__(self, chosen, folder):
        self.folder, self.vocab = folder, chosen.vocab
        self.images = (chosen.data / "test_imgs.tsv").read_text().splitlines()[:chosen.pairs]
        known = {line.split("\t")[0] for line in self.images}
        texts = map(json.loads, (chosen.data / "test_texts.jsonl").read_text().splitlines())
        self.texts = [text for text in texts if known.intersection(map(str, text["image_ids"]))]
        (folder / "images.tsv").write_text("\n".join(self.images) + "\n")
        (folder / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in self.texts))
        run("prepare", "--images", folder / "images.tsv", "--texts", folder / "texts.jsonl", "--output", folder / "data")

    def by_cnclip(self, weights, chosen):
        """Seconds and recalls, as the program says them."""
        config = {
            "run": {"name": "twin", "stage": "evaluate"}, "checkpoint": str(weights), "batchSize": chosen.batch,
            "vocabulary": {"uri": str(self.vocab), "sha256": digest(self.vocab)}, "artifacts": str(self.folder / "out"),
            "tasks": [{"name": "twin", "retrieval": {"dataset": str(self.folder / "data")}}],
        }
        (self.folder / "evaluation.json").write_text(json.dumps(config))
        run("evaluate", "--config", self.folder / "evaluation.json")
        (result,) = json.loads((self.folder / "out/results.json").read_text())["tasks"]
        return {"seconds": result["seconds"], **result["retrieval"]["recalls"]}

    @torch.no_grad()
    def by_pytorch(self, model, chosen):
        """The same by the reference's model, picture preparation and tokenizer."""
        start = time.monotonic()
        transform = utils.image_transform(PRESETS[chosen.preset]["image_resolution"])
        pictures, ids = [], []
        for batch in batches(self.images, chosen.batch):
            files = [base64.b64decode(line.split("\t")[1]) for line in batch]
            pixels = torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])
            pictures.append(unit(model.encode_image(pixels)))
        words, utils._tokenizer = [text["text"] for text in self.texts], FullTokenizer(str(self.vocab))
        for batch in batches(words, chosen.batch):
            ids.append(unit(model.encode_text(utils.tokenize([word.lower() for word in batch], CONTEXT))))
        similarities = torch.cat(ids) @ torch.cat(pictures).T
        place = {line.split("\t")[0]: index for index, line in enumerate(self.images)}
        relevant = torch.zeros_like(similarities, dtype=torch.bool)
        for row, text in enumerate(self.texts):
            for image in map(str, text["image_ids"]):
                if image in place:
                    relevant[row, place[image]] = True
        there, back = recall(similarities, relevant), recall(similarities.T, relevant.T)
        return {"seconds": time.monotonic() - start, "textToImage": there, "imageToText": back}


def recall(similarities, relevant):
    """Percent of queries with a right answer among the first; of those that have one."""
    order = similarities.argsort(dim=1, descending=True, stable=True)
    hits = relevant.gather(1, order)[relevant.any(dim=1)]
    return {f"r{k}": 100 * hits[:, :k].any(dim=1).double().mean().item() for k in (1, 5, 10)}


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def batches(things, size):
    return [things[start:start + size] for start in range(0, len(things), size)]


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(*arguments):
    done = subprocess.run([os.environ["CNCLIP_PROGRAM"], *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"cnclip {arguments[0]} ended with {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    main()
