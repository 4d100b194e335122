"""Builds what runs on a GPU, without one: ``make cuda``."""

import json
import os
import shutil
import subprocess

from bed.images import PROJECT
from bed.place import CACHE
from bed.processes import run, show
from bed.steps import Failure, main, step

OUT = PROJECT / "target/cuda"
BUILD = ("--release", "--locked", "--features", "cuda")


def build():
    """The trainer and its tests on a device, in ``target/cuda``, without what only a debugger reads."""
    environment = {**os.environ, "CUDA_HOME": toolkit()}
    environment.setdefault("CARGO_TARGET_DIR", str(CACHE / "target"))
    OUT.mkdir(parents=True, exist_ok=True)
    with step("cuda", "compiling the trainer"):
        show("cargo", "build", *BUILD, "--quiet", "--package", "cnclip-trainer", "--bin", "cnclip",
             cwd=PROJECT, env=environment)
    program = PROJECT / environment["CARGO_TARGET_DIR"] / "release/cnclip"
    with step("cuda", "compiling the tests"):
        tests = test_program(environment)
    for source, name in ((program, "cnclip"), (tests, "device-tests")):
        shutil.copy(source, OUT / name)
        run("strip", OUT / name)
    print(f"cuda: {OUT}/cnclip and {OUT}/device-tests", flush=True)
    return 0


def toolkit():
    """The folder of NVIDIA's compiler: the one in CUDA_HOME, or the pinned one."""
    return os.environ.get("CUDA_HOME") or run(PROJECT / "tests/cuda/toolkit").strip()


def test_program(environment):
    """Compiles the tests of operations on a device and says where they are."""
    done = subprocess.run(["cargo", "test", *BUILD, "--no-run", "--package", "cnclip-emulator", "--test", "device",
                           "--message-format", "json-render-diagnostics"],
                          cwd=PROJECT, env=environment, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise Failure("the tests of operations on a device do not compile; cargo's words are above.")
    messages = map(json.loads, done.stdout.splitlines())
    found = [message["executable"] for message in messages
             if message.get("target", {}).get("name") == "device" and message.get("executable")]
    return found[-1]


if __name__ == "__main__":
    main(build)
