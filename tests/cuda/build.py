"""Builds what runs on a GPU, without one: ``make cuda``."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from bed import images
from bed.processes import run
from bed.steps import Failure, main, step

PROJECT = images.PROJECT
OUT = PROJECT / "target/cuda"
PICTURES = PROJECT / "target/demo/emoji"
BUILD = ("--release", "--locked", "--features", "cuda")


def build():
    """The trainer and its tests on a device, in ``target/cuda``, without what only a debugger reads, and pairs."""
    OUT.mkdir(parents=True, exist_ok=True)
    with step("cuda", "compiling the trainer"):
        program = images.compile_cuda()
        shutil.copy(program, OUT / "cnclip")
    with step("cuda", "compiling the tests"):
        shutil.copy(test_program(), OUT / "device-tests")
    for name in ("cnclip", "device-tests"):
        run("strip", OUT / name)
    pairs(OUT / "cnclip")
    print(f"cuda: {OUT}/cnclip, {OUT}/device-tests and {OUT}/emoji", flush=True)


def pairs(program):
    """Every second picture of what the demo's English training sees, as shards: 21 MB, which go where the programs go."""
    with step("cuda", "the demo's pairs"):
        run(PROJECT / "tests/emoji/build", PICTURES)
        for split in ("train", "valid"):
            shutil.rmtree(OUT / "emoji" / split, ignore_errors=True)
            with tempfile.TemporaryDirectory() as folder:
                images, texts = half(PICTURES / "en", split, Path(folder))
                run(program, "prepare", "--images", images, "--texts", texts, "--output", OUT / "emoji" / split)
        shutil.copy(PICTURES / "vocab.txt", OUT / "emoji/vocab.txt")


def half(source, split, folder):
    """Files of every second picture and its texts, in the reference's format."""
    pictures = (source / f"{split}_imgs.tsv").read_text().splitlines(keepends=True)[::2]
    there = {int(line.split("\t")[0]) for line in pictures}
    texts = map(json.loads, (source / f"{split}_texts.jsonl").read_text().splitlines())
    texts = [{**text, "image_ids": [image for image in text["image_ids"] if image in there]} for text in texts]
    images, captions = folder / "images.tsv", folder / "texts.jsonl"
    images.write_text("".join(pictures))
    captions.write_text("".join(json.dumps(text) + "\n" for text in texts if text["image_ids"]))
    return images, captions


def test_program():
    """Compiles the tests of operations on a device and says where they are."""
    done = subprocess.run(["cargo", "test", *BUILD, "--no-run", "--package", "cnclip-trainer", "--test", "device",
                           "--message-format", "json-render-diagnostics"],
                          cwd=PROJECT, env=images.cuda_environment(), text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise Failure("the tests of operations on a device do not compile; cargo's words are above.")
    messages = map(json.loads, done.stdout.splitlines())
    found = [message["executable"] for message in messages
             if message.get("target", {}).get("name") == "device" and message.get("executable")]
    return found[-1]


if __name__ == "__main__":
    main(build)
