"""Makes the files of this folder: one toy model in every layout that weights are published in.

Needs torch and safetensors. The numbers are small integers, so that 16 bits hold them exactly.
"""

import json
import os

import torch
from safetensors.torch import save_file

WIDTH, FEATURES, HIDDEN, WIDE, WORDS, LONGEST = 8, 4, 6, 12, 10, 7


def shapes():
    yield "logit_scale", ()
    yield "text_projection", (HIDDEN, FEATURES)
    yield "visual.class_embedding", (WIDTH,)
    yield "visual.positional_embedding", (5, WIDTH)
    yield "visual.conv1.weight", (WIDTH, 3, 2, 2)
    yield "visual.proj", (WIDTH, FEATURES)
    for norm in ["ln_pre", "ln_post"]:
        yield f"visual.{norm}.weight", (WIDTH,)
        yield f"visual.{norm}.bias", (WIDTH,)
    yield from block("visual.transformer.resblocks.0.", WIDTH)
    yield "bert.embeddings.word_embeddings.weight", (WORDS, HIDDEN)
    yield "bert.embeddings.position_embeddings.weight", (LONGEST, HIDDEN)
    yield "bert.embeddings.token_type_embeddings.weight", (2, HIDDEN)
    layer = "bert.encoder.layer.0."
    for norm in ["bert.embeddings.", layer + "attention.output.", layer + "output."]:
        yield norm + "LayerNorm.weight", (HIDDEN,)
        yield norm + "LayerNorm.bias", (HIDDEN,)
    for part in ["self.query", "self.key", "self.value", "output.dense"]:
        yield from linear(f"{layer}attention.{part}.", HIDDEN, HIDDEN)
    yield from linear(layer + "intermediate.dense.", HIDDEN, WIDE)
    yield from linear(layer + "output.dense.", WIDE, HIDDEN)


def linear(name, inputs, outputs):
    yield name + "weight", (outputs, inputs)
    yield name + "bias", (outputs,)


def block(name, width):
    yield name + "attn.in_proj_weight", (3 * width, width)
    yield name + "attn.in_proj_bias", (3 * width,)
    yield from linear(name + "attn.out_proj.", width, width)
    yield from linear(name + "mlp.c_fc.", width, 4 * width)
    yield from linear(name + "mlp.c_proj.", 4 * width, width)
    for norm in ["ln_1", "ln_2"]:
        yield f"{name}{norm}.weight", (width,)
        yield f"{name}{norm}.bias", (width,)


def whole():
    torch.manual_seed(1)
    return {name: torch.randint(-99, 99, shape).float() for name, shape in shapes()}


def english():
    """An English text tower as OpenAI names it: of the same width, so that only names tell."""
    tower = {name: torch.ones(shape) for name, shape in block("transformer.resblocks.0.", HIDDEN)}
    for name, shape in [
        ("token_embedding.weight", (WORDS, HIDDEN)),
        ("positional_embedding", (LONGEST, HIDDEN)),
        ("ln_final.weight", (HIDDEN,)),
        ("ln_final.bias", (HIDDEN,)),
        ("text_projection", (HIDDEN, FEATURES)),
    ]:
        tower[name] = torch.ones(shape)
    return tower


REPLACED = [
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    (".attn.", ".self_attn."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
]


def hugging_face(tensors):
    named = {}
    for name, tensor in tensors.items():
        if name == "text_projection":
            named["text_projection.weight"] = tensor.t().contiguous()
        elif name == "visual.proj":
            named["visual_projection.weight"] = tensor.t().contiguous()
        elif name.startswith("bert."):
            named["text_model." + name[5:]] = tensor
        else:
            for before, after in REPLACED if name.startswith("visual.") else []:
                name = name.replace(before, after)
            if ".in_proj_" in name:
                for which, part in zip("qkv", tensor.chunk(3)):
                    named[name.replace("in_proj_", f"{which}_proj.")] = part.contiguous()
            else:
                named[name] = tensor
    return named


def module(tensors):
    """A module with these parameters, for TorchScript."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        at = root
        for part in path:
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at._modules[part]
        at.register_parameter(leaf, torch.nn.Parameter(tensor))
    root.register_buffer("input_resolution", torch.tensor(4))
    root.forward = lambda x: x
    return torch.jit.trace(root, torch.zeros(1))


def main():
    full = whole()
    image = {n: t for n, t in full.items() if n.startswith("visual.") or n == "logit_scale"}
    text = {n: t for n, t in full.items() if n.startswith("bert.")}
    save_file(full, "reference.safetensors")

    distributed = {"module." + name: tensor for name, tensor in full.items()}
    pooler = {"module.bert.pooler.dense.weight": torch.ones(2)}
    moments = {0: {"step": 1, "exp_avg": torch.ones(3)}}
    checkpoint = {"epoch": 3, "step": 70, "name": "toy", "state_dict": {**distributed, **pooler}}
    torch.save({**checkpoint, "optimizer": {"state": moments, "param_groups": []}}, "ofa.pt")
    half = {name: tensor.half() for name, tensor in full.items()}
    turned = {"visual.proj": half["visual.proj"].t().contiguous().t()}
    torch.save({**half, **turned}, "before_1_6.pt", _use_new_zipfile_serialization=False)

    os.makedirs("sharded", exist_ok=True)
    named = hugging_face(full)
    named["text_model.embeddings.position_ids"] = torch.arange(LONGEST)
    files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    parts = [dict(list(named.items())[at::2]) for at in range(2)]
    for file, part in zip(files, parts):
        torch.save(part, f"sharded/{file}")
    places = {name: file for file, part in zip(files, parts) for name in part}
    with open("sharded/pytorch_model.bin.index.json", "w") as index:
        json.dump({"metadata": {}, "weight_map": places}, index)

    half = {name: tensor.half() for name, tensor in {**image, **english()}.items()}
    torch.save(half, "openai.state_dict.pt")
    module(half).save("openai.torchscript.pt")
    clip = hugging_face(image)
    clip["text_model.encoder.layers.0.mlp.fc1.bias"] = torch.ones(3)
    clip["text_projection.weight"] = torch.ones(FEATURES, HIDDEN)
    clip["vision_model.embeddings.position_ids"] = torch.arange(5)
    save_file({n: t if t.dtype == torch.int64 else t.bfloat16() for n, t in clip.items()}, "clip.safetensors")

    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in text.items()}
    old |= {"bert.pooler.dense.weight": torch.ones(2), "cls.predictions.bias": torch.ones(WORDS)}
    old["bert.embeddings.position_ids"] = torch.arange(LONGEST)
    torch.save(old, "bert.bin")
    bare = {n.removeprefix("bert."): t for n, t in text.items()}
    save_file({**bare, "pooler.dense.weight": torch.ones(2)}, "bert_bare.safetensors")


main()
