"""Tests and benchmarks on a machine with an NVIDIA GPU: ``make gpu-check``.

    python3 tests/gpu/check.py [--program P] [--tests T] [--parts device,tests,ranks,...] [--out FOLDER]

Needs neither network nor compiler: only this checkout, the programs that ``make cuda`` built, and CUDA's libraries,
for which those in Python packages (PyTorch's dependencies) serve too. Every part runs even if another has failed; the
exit code is 1 if one failed. FOLDER gets ``check.log`` with the output of all programs, and ``results.jsonl`` with a
line for each measurement.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[2]
GOLDEN = PROJECT / "trainer/tests/golden"
PARTS = ("device", "tests", "ranks", "training", "demo", "bench", "pytorch")
FORMER_PARTS = {"card": "device", "twin": "pytorch"}
PEAK_FLOPS = 790e12
"""Dense bfloat16 FLOP/s that large matrix products reach on an H100 or H200, as measured there."""

BATCH_SIZES = {"RN50": 512, "ViT-B-16": 768, "ViT-L-14": 256, "ViT-L-14-336": 96, "ViT-H-14": 128}
"""Samples of a step of each model: what fits into 80 GB with PyTorch's activations too."""

LOSS_TOLERANCE = {"Fp32": 2e-3, "Bf16": 5e-2}
"""The largest accepted difference between the losses of eight steps on the GPU and on the CPU.

Sums are computed in another order, and AdamW's first steps normalize any gradient, however small, to a whole step.
"""

DEMO_STEPS = 300
CURVE_WINDOW = 25
"""The number of successive losses that are averaged into one point of a curve."""

CURVE_TOLERANCE = {"Fp32": 0.02, "Bf16": 0.04}
"""The largest accepted relative difference between points of the demo's loss curves on the GPU and on the CPU.

After some hundred steps two runs with different rounding differ by as much on one and the same device.
"""

flops_per_pair = {}
"""By model and stage, as our program reports them; PyTorch's utilization is computed from the same numbers."""


class CheckFailure(Exception):
    """A part found something wrong; `output` is the standard output of the program that failed, if one did."""

    output = ""


def main():
    """Runs the selected parts; returns the exit code."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path(), "RUST_BACKTRACE": "1"}
    failed = []
    for part in arguments.parts:
        print(f"\n=== {part}", flush=True)
        start = time.monotonic()
        try:
            globals()[f"check_{part}"](arguments, environment)
        except (CheckFailure, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            print(f"FAILED: {error}", flush=True)
            failed.append(part)
        print(f"--- {part}: {time.monotonic() - start:.1f} s", flush=True)
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'all parts passed'}", flush=True)
    return bool(failed)


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description="Tests, a training and benchmarks on this machine's GPU.")
    parser.add_argument("--program", type=Path, default=PROJECT / "target/cuda/cnclip")
    parser.add_argument("--tests", type=Path, default=PROJECT / "target/cuda/device-tests")
    parser.add_argument("--operations", type=Path, default=PROJECT / "target/cuda/operation-tests")
    parser.add_argument("--pairs", type=Path, default=PROJECT / "target/cuda/emoji", help="samples of the part demo")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", PROJECT / "target/cuda/results")))
    parser.add_argument("--parts", type=parse_parts, default=list(PARTS))
    parser.add_argument("--filter", default="", help="only tests whose name contains this text")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(BATCH_SIZES))
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each benchmark")
    parser.add_argument("--batch", type=int, help="samples of a step, instead of the model's default")
    parser.add_argument("--compile", action="store_true", help="use torch.compile (takes a minute for each model)")
    arguments = parser.parse_args()
    arguments.log = arguments.out / "check.log"
    return arguments


def parse_parts(text):
    """The parts of a comma-separated list; names of the previous release are accepted."""
    parts = [FORMER_PARTS.get(part, part) for part in text.split(",")]
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return parts


def library_path():
    """A value for LD_LIBRARY_PATH that includes the CUDA libraries in Python packages."""
    specification = importlib.util.find_spec("nvidia")
    roots = list(specification.submodule_search_locations) if specification else []
    folders = [str(folder) for root in roots for folder in sorted(Path(root).glob("*/lib"))]
    # The program opens libnccl.so, and the package contains only libnccl.so.2.
    links = Path(tempfile.mkdtemp(prefix="cnclip-libraries-"))
    for folder in folders:
        for library in Path(folder).glob("libnccl.so.2"):
            (links / "libnccl.so").symlink_to(library)
    return ":".join([*folders, str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def check_device(arguments, environment):
    """The program finds the GPU, and the GPU computes a kernel and a matrix product."""
    print(run([arguments.program, "device"], environment, arguments.log), flush=True)


def check_tests(arguments, environment):
    """Every operation, and the whole model, give the CPU's result."""
    options = ("--test-threads", "4", *filter(None, [arguments.filter]))
    run_device_tests(arguments.operations, arguments, environment, *options)
    run_device_tests(arguments.tests, arguments, environment, "--skip", "ranks::", *options)


def check_ranks(arguments, environment):
    """Several ranks communicate through NCCL on one GPU.

    Loading a module or freeing memory synchronizes the whole device, which deadlocks while ranks on that device wait
    for each other. So modules are loaded eagerly, and no other test runs at the same time.
    """
    nccl = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "CUDA_MODULE_LOADING": "EAGER", "NCCL_DEBUG": "WARN"}
    run_device_tests(arguments.tests, arguments, {**environment, **nccl}, "--test-threads", "1", "ranks::")


def run_device_tests(program, arguments, environment, *options):
    """Runs a test program on the GPU and prints the failures and totals."""
    environment = {**environment, "CNCLIP_DEVICE": "cuda", "CNCLIP_GOLDEN": str(GOLDEN)}
    output = ""
    try:
        output = run([program, *options], environment, arguments.log)
    except CheckFailure as error:
        output = error.output
        raise
    finally:
        print("\n".join([*failures_and_totals(output)][-150:]), flush=True)


def failures_and_totals(output):
    """The lines of a test program's output that name failed tests, explain failures, or count."""
    in_failures = False
    for line in output.splitlines():
        in_failures = in_failures or line.startswith("failures:")
        if in_failures or line.startswith("test result") or line.endswith("FAILED"):
            yield line


def check_training(arguments, environment):
    """Eight training steps have the same losses on the CPU and on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = golden_training_config(arguments, folder, environment)
        for precision, tolerance in LOSS_TOLERANCE.items():
            cpu, gpu = (losses(train(arguments, config, folder, precision, accelerator, environment))
                        for accelerator in ("None", "Nvidia"))
            difference = max(abs(a - b) for a, b in zip(cpu, gpu, strict=True))
            record(arguments, {"training": precision, "cpu": cpu, "gpu": gpu, "difference": difference})
            # Written so that a NaN fails.
            if not difference <= tolerance:
                raise CheckFailure(f"losses in {precision} differ by {difference}, at most {tolerance} is expected")


def golden_training_config(arguments, folder, environment):
    """Prepares the golden data set in a folder; returns the configuration of a small model's training on it."""
    golden = GOLDEN / "dataset"
    run([arguments.program, "prepare", "--images", golden / "train_imgs.tsv", "--texts", golden / "train_texts.jsonl",
         "--output", folder / "data", "--most-skipped", "10"], environment, arguments.log)
    # The last text of the data set is empty on purpose.
    texts = [json.loads(line)["text"] for line in (golden / "train_texts.jsonl").read_text().splitlines()[:-1]]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set("".join(texts)) - set(" \n"))]
    vocabulary = "".join(f"{token}\n" for token in tokens).encode()
    (folder / "vocab.txt").write_bytes(vocabulary)
    vit = {"layers": 3, "width": 128, "patchSize": 8, "headWidth": 64}
    text = {"vocabSize": len(tokens), "layers": 2, "width": 128, "heads": 2, "intermediate": 512, "positions": 64,
            "hiddenDropoutPercent": 0, "attentionDropoutPercent": 0}
    return {
        "model": {"embedDim": 64, "image": {"resolution": 64, "vit": vit}, "text": text},
        "contextLength": 32, "dataset": str(folder / "data"), "length": {"steps": 8}, "globalBatchSize": 16,
        "vocabulary": {"uri": str(folder / "vocab.txt"), "sha256": hashlib.sha256(vocabulary).hexdigest()},
        "optimizer": {"learningRate": 1e-4, "warmupSteps": 4, "weightDecay": 0.1, "beta1": 0.9, "beta2": 0.98,
                      "epsilon": 1e-6},
        "checkpoint": {"everySteps": 4, "keep": 1}, "seed": 1, "reportEverySteps": 1, "maxSkippedPercent": 10,
    }


def losses(rows):
    """The loss of each step."""
    return [row["loss"] for row in rows if "loss" in row]


def train(arguments, config, folder, precision, accelerator, environment):
    """Runs a training; returns the rows of its metrics.jsonl."""
    name = f"{precision}-{accelerator}"
    workers = {"replicas": 1, "devices": 1, "accelerator": accelerator, "precision": precision}
    identity = {"name": name, "uid": "", "stage": "train", "attempt": 1}
    (folder / f"{name}.json").write_text(json.dumps({**config, "run": identity, "world": workers,
                                                     "artifacts": str(folder / name)}))
    run([arguments.program, "train", "--config", folder / f"{name}.json"], environment, arguments.log)
    return [json.loads(line) for line in (folder / name / "train/metrics.jsonl").read_text().splitlines()]


def check_demo(arguments, environment):
    """The demo's first training, shortened, has the CPU's loss curve on the GPU."""
    if not (arguments.pairs / "train/index.json").exists():
        raise CheckFailure(f"{arguments.pairs} contains no samples: `make cuda` writes them next to the programs; "
                           "--pairs names another folder")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = demo_training_config(arguments.pairs)
        cpu = loss_curve(train(arguments, config, folder, "Fp32", "None", environment))
        for precision, tolerance in CURVE_TOLERANCE.items():
            gpu = loss_curve(train(arguments, config, folder, precision, "Nvidia", environment))
            difference = max(abs(a / b - 1) for a, b in zip(gpu["means"], cpu["means"], strict=True))
            record(arguments, {"demo": precision, "difference": difference, "cpu": cpu, "gpu": gpu})
            if not difference <= tolerance:
                raise CheckFailure(f"curves in {precision} differ by {difference:.3f}, at most {tolerance} is expected")


def demo_training_config(samples):
    """The model, data and hyperparameters of tests/demo/english.yaml."""
    vocabulary = (samples / "vocab.txt").read_bytes()
    text = {"vocabSize": len(vocabulary.splitlines()), "layers": 1, "width": 128, "heads": 2, "intermediate": 512,
            "positions": 64, "hiddenDropoutPercent": 0, "attentionDropoutPercent": 0}
    image = {"resolution": 32, "resnet": {"layers": [1, 1, 1, 1], "width": 32}}
    return {
        "model": {"embedDim": 128, "image": image, "text": text}, "contextLength": 24,
        "dataset": str(samples / "train"), "length": {"steps": DEMO_STEPS}, "globalBatchSize": 256,
        "vocabulary": {"uri": str(samples / "vocab.txt"), "sha256": hashlib.sha256(vocabulary).hexdigest()},
        "optimizer": {"learningRate": 2e-3, "warmupSteps": 60, "weightDecay": 0.1, "beta1": 0.9, "beta2": 0.98,
                      "epsilon": 1e-6},
        "augmentation": "CropFlip", "validation": {"dataset": str(samples / "valid"), "everySteps": DEMO_STEPS},
        "checkpoint": {"everySteps": DEMO_STEPS, "keep": 1}, "seed": 1, "reportEverySteps": 1,
    }


def loss_curve(rows):
    """The means of successive losses, and the final mean recall of text-to-image retrieval."""
    loss_of_step = {row["step"]: row["loss"] for row in rows if "loss" in row}
    values = [loss_of_step[step] for step in sorted(loss_of_step)]
    means = [sum(values[start:start + CURVE_WINDOW]) / CURVE_WINDOW for start in range(0, DEMO_STEPS, CURVE_WINDOW)]
    recall = [row["recalls"]["textToImage"]["meanRecall"] for row in rows if row.get("recalls")]
    return {"means": [round(mean, 4) for mean in means], "recall": recall[-1]}


def check_bench(arguments, environment):
    """Measures the throughput of both stages of every model."""
    benchmark(arguments, environment, "ours", lambda preset, batch: [
        arguments.program, "bench", "--preset", preset, "--batch", batch, "--steps", arguments.steps,
        "--bf16", "--card"])


def check_pytorch(arguments, environment):
    """Measures the same with PyTorch."""
    options = ["--compile"] if arguments.compile else []
    benchmark(arguments, environment, "pytorch", lambda preset, batch: [
        sys.executable, PROJECT / "tests/gpu/pytorch_benchmark.py", "--preset", preset, "--batch", batch,
        "--steps", arguments.steps, *options])


def benchmark(arguments, environment, implementation, command):
    """Runs a benchmark command for every model and records its measurements."""
    failed = []
    for preset in arguments.presets:
        try:
            output = run(command(preset, arguments.batch or BATCH_SIZES[preset]), environment, arguments.log)
        except CheckFailure as error:
            print(f"{preset}: {error}", flush=True)
            failed.append(preset)
            continue
        for line in filter(lambda line: line.startswith("{"), output.splitlines()):
            measurement = json.loads(line)
            kind = (preset, measurement.get("stage"))
            flops_per_pair.setdefault(kind, measurement.get("flopsPerPair"))
            if flops_per_pair[kind] and "pairsPerSecond" in measurement:
                measurement["share"] = measurement["pairsPerSecond"] * flops_per_pair[kind] / PEAK_FLOPS
            record(arguments, {"who": implementation, **measurement})
    if failed:
        raise CheckFailure(f"no measurement of {', '.join(failed)}")


def record(arguments, result):
    """Prints a measurement and appends it to results.jsonl."""
    line = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()})
    print(line, flush=True)
    with open(arguments.out / "results.jsonl", "a") as results:
        results.write(line + "\n")


def run(command, environment, log, timeout=300):
    """Runs a program, appends its output to `log`, and returns its standard output."""
    command = [str(argument) for argument in command]
    with tempfile.TemporaryFile("w+") as stderr_file:
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr_file,
                              text=True) as program:
            try:
                stdout, _ = program.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                program.kill()
                stdout, _ = program.communicate()
        stderr_file.seek(0)
        output = stdout + stderr_file.read()
    with open(log, "a") as file:
        file.write(f"$ {' '.join(command)}\n{output}\n")
    if program.returncode:
        output_tail = "\n".join(output.splitlines()[-12:])
        failure = CheckFailure(f"`{' '.join(command)}` exited with {program.returncode}:\n{output_tail}")
        failure.output = stdout
        raise failure
    return stdout


if __name__ == "__main__":
    sys.exit(main())
