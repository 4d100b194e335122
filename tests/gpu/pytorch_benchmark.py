"""Throughput of a training step in PyTorch, as its users would write it: transformers' Chinese-CLIP, bfloat16 autocast,
SDPA, fused AdamW. Prints a line of JSON for each stage; images are random, texts are padded as the reference pads them.
"""

import argparse
import json
import time

import torch
from torch.nn.functional import cross_entropy, normalize
from transformers import ChineseCLIPConfig, ChineseCLIPModel

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def vision(image_size, patch_size, width, layers, heads):
    """The configuration of an image tower."""
    return {"image_size": image_size, "patch_size": patch_size, "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": 4 * width, "hidden_act": "quick_gelu"}


PRESETS = {
    "tiny": (64, vision(32, 16, 64, 2, 1),
             {**BASE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}),
    "ViT-B-16": (512, vision(224, 16, 768, 12, 12), BASE),
    "ViT-L-14": (768, vision(224, 14, 1024, 24, 16), BASE),
    "ViT-L-14-336": (768, vision(336, 14, 1024, 24, 16), BASE),
    "ViT-H-14": (1024, vision(224, 14, 1280, 32, 16), LARGE),
}
"""The dimension of the features, the image tower and the text tower of each model. transformers has no ResNet."""

CONTEXT_LENGTH = 52
VOCABULARY_SIZE = 21128
WARMUP_STEPS = 3
"""Steps before the timed ones: allocation, and compilation if asked for."""


def main():
    """Measures both stages: the first trains the text tower only, the second both."""
    arguments = parse_arguments()
    if arguments.preset not in PRESETS:
        print(json.dumps({"preset": arguments.preset, "missing": "transformers has no such Chinese-CLIP"}))
        return
    torch.manual_seed(1)
    model, size = build(arguments)
    batch = random_batch(arguments, size)
    for stage in (1, 2):
        model.vision_model.requires_grad_(stage == 2)
        model.visual_projection.requires_grad_(stage == 2)
        measure(arguments, model, batch, stage)


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs=2, default=(8, 36), help="length of the shortest and longest text")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def build(arguments):
    """The model with random weights, in fp32, and the side of its images in pixels."""
    dimensions, image, text = PRESETS[arguments.preset]
    text = {**text, "vocab_size": VOCABULARY_SIZE, "max_position_embeddings": 512, "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1}
    config = ChineseCLIPConfig(text_config=text, vision_config=image, projection_dim=dimensions)
    config._attn_implementation = "sdpa"
    with torch.device(arguments.device):
        model = ChineseCLIPModel._from_config(config, attn_implementation="sdpa")
    return model.float().train(), image["image_size"]


def random_batch(arguments, size):
    """Image bytes and padded token IDs in host memory, as a data loader would return them."""
    shortest, longest = arguments.tokens
    lengths = [shortest + pair % (longest + 1 - shortest) for pair in range(arguments.batch)]
    mask = torch.zeros(arguments.batch, CONTEXT_LENGTH, dtype=torch.long)
    for row, length in zip(mask, lengths):
        row[:length] = 1
    ids = torch.randint(1, VOCABULARY_SIZE, mask.shape) * mask
    pixels = torch.randint(0, 256, (arguments.batch, 3, size, size), dtype=torch.uint8)
    pin = arguments.device == "cuda"
    return [tensor.pin_memory() if pin else tensor for tensor in (pixels, ids, mask)]


def measure(arguments, model, batch, stage):
    """Prints the mean time of the steps of one stage."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1,
                                  fused=arguments.device == "cuda")
    forward = torch.compile(features) if arguments.compile else features
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = [step(arguments, model, forward, optimizer, batch)
             for _ in range(WARMUP_STEPS + arguments.steps)][WARMUP_STEPS:]
    parts = [sum(part) / arguments.steps for part in zip(*times)]
    print(json.dumps({
        "preset": arguments.preset, "stage": stage, "batch": arguments.batch, "precision": "bf16",
        "pairsPerSecond": arguments.batch / sum(parts), "forwardSeconds": parts[0], "backwardSeconds": parts[1],
        "optimizerSeconds": parts[2], "compiled": arguments.compile,
        "deviceBytes": torch.cuda.max_memory_reserved() if arguments.device == "cuda" else 0,
        "parameters": sum(parameter.numel() for parameter in model.parameters())}), flush=True)


def step(arguments, model, forward, optimizer, batch):
    """Runs a step; returns the seconds of forward and loss, of backward, and of the optimizer."""
    moments = [now(arguments)]
    pixels, ids, mask = (tensor.to(arguments.device, non_blocking=True) for tensor in batch)
    with torch.autocast(arguments.device, torch.bfloat16):
        images, texts = forward(model, pixels.to(torch.bfloat16).div(127.5).sub(1), ids, mask)
        logits = model.logit_scale.exp() * images @ texts.t()
    labels = torch.arange(arguments.batch, device=arguments.device)
    loss = (cross_entropy(logits.float(), labels) + cross_entropy(logits.t().float(), labels)) / 2
    moments.append(now(arguments))
    loss.backward()
    moments.append(now(arguments))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    moments.append(now(arguments))
    return [after - before for before, after in zip(moments, moments[1:])]


def features(model, pixels, ids, mask):
    """Normalized features of both towers. The text feature is that of the first token, as in the reference."""
    images = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    hidden = model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
    texts = model.text_projection(hidden[:, 0])
    return normalize(images.float(), dim=-1), normalize(texts.float(), dim=-1)


def now(arguments):
    """The clock after all work queued on the device has finished."""
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
