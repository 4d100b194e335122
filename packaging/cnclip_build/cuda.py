"""Compiles what runs on a GPU, on a machine without one: ``make cuda``."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from .commands import run
from .images import compile_cuda, cuda_build_environment
from .paths import PROJECT
from .progress import Failure, step

OUT = PROJECT / "target/cuda"
EMOJI = PROJECT / "target/demo/emoji"
CARGO_OPTIONS = ("--release", "--locked", "--features", "cuda")
TEST_PROGRAMS = {
    "device-tests": ("cnclip-trainer", "device"),
    "operation-tests": ("cnclip-compute", "operations"),
}
"""The package and the test target of each program: the whole model on a device, and single operations."""


def build():
    """Writes the trainer, its tests on a device and the demo's samples to ``target/cuda``, to be copied to a GPU machine."""
    OUT.mkdir(parents=True, exist_ok=True)
    with step("cuda", "compiling the trainer"):
        shutil.copy(compile_cuda(), OUT / "cnclip")
    for name, (package, target) in TEST_PROGRAMS.items():
        with step("cuda", f"compiling the {name.replace('-', ' ')}"):
            shutil.copy(compile_tests(package, target), OUT / name)
    for name in ("cnclip", *TEST_PROGRAMS):
        run("strip", OUT / name)
    prepare_samples(OUT / "cnclip")
    print(f"cuda: {OUT}/cnclip, {', '.join(TEST_PROGRAMS)} and emoji", flush=True)


def prepare_samples(program):
    """Writes every second image of the demo's English data set as shards: 21 MB, small enough to copy along."""
    with step("cuda", "preparing the demo's samples"):
        run(PROJECT / "tests/emoji/build", EMOJI)
        for split in ("train", "valid"):
            shutil.rmtree(OUT / "emoji" / split, ignore_errors=True)
            with tempfile.TemporaryDirectory() as folder:
                images, texts = select_half(EMOJI / "en", split, Path(folder))
                run(program, "prepare", "--images", images, "--texts", texts, "--output", OUT / "emoji" / split)
        shutil.copy(EMOJI / "vocab.txt", OUT / "emoji/vocab.txt")


def select_half(source, split, folder):
    """Writes every second image of a split and the texts about them; returns the paths of both files."""
    rows = (source / f"{split}_imgs.tsv").read_text().splitlines(keepends=True)[::2]
    selected = {int(row.split("\t")[0]) for row in rows}
    texts = map(json.loads, (source / f"{split}_texts.jsonl").read_text().splitlines())
    texts = [{**text, "image_ids": [image for image in text["image_ids"] if image in selected]} for text in texts]
    images_file, texts_file = folder / "images.tsv", folder / "texts.jsonl"
    images_file.write_text("".join(rows))
    texts_file.write_text("".join(json.dumps(text) + "\n" for text in texts if text["image_ids"]))
    return images_file, texts_file


def compile_tests(package, target):
    """Compiles a test target of a package; returns the path of the test program."""
    done = subprocess.run(["cargo", "test", *CARGO_OPTIONS, "--no-run", "--package", package, "--test",
                           target, "--message-format", "json-render-diagnostics"],
                          cwd=PROJECT, env=cuda_build_environment(), text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise Failure(f"the tests {target} of {package} do not compile; cargo's messages are above.")
    messages = map(json.loads, done.stdout.splitlines())
    executables = [message["executable"] for message in messages
                   if message.get("target", {}).get("name") == target and message.get("executable")]
    return executables[-1]
