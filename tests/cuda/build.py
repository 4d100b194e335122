"""Builds what runs on a GPU, without one: ``make cuda``."""

import json
import shutil
import subprocess

from bed import images
from bed.processes import run
from bed.steps import Failure, main, step

OUT = images.PROJECT / "target/cuda"
BUILD = ("--release", "--locked", "--features", "cuda")


def build():
    """The trainer and its tests on a device, in ``target/cuda``, without what only a debugger reads."""
    OUT.mkdir(parents=True, exist_ok=True)
    with step("cuda", "compiling the trainer"):
        program = images.compile_cuda()
        shutil.copy(program, OUT / "cnclip")
    with step("cuda", "compiling the tests"):
        shutil.copy(test_program(), OUT / "device-tests")
    for name in ("cnclip", "device-tests"):
        run("strip", OUT / name)
    print(f"cuda: {OUT}/cnclip and {OUT}/device-tests", flush=True)


def test_program():
    """Compiles the tests of operations on a device and says where they are."""
    done = subprocess.run(["cargo", "test", *BUILD, "--no-run", "--package", "cnclip-emulator", "--test", "device",
                           "--message-format", "json-render-diagnostics"],
                          cwd=images.PROJECT, env=images.cuda_environment(), text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise Failure("the tests of operations on a device do not compile; cargo's words are above.")
    messages = map(json.loads, done.stdout.splitlines())
    found = [message["executable"] for message in messages
             if message.get("target", {}).get("name") == "device" and message.get("executable")]
    return found[-1]


if __name__ == "__main__":
    main(build)
