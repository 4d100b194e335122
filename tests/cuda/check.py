"""What only a GPU can show, in one call on a machine that has one: no network, no compiler, only this tree, the
programs that ``make cuda`` built, and CUDA's libraries, those that PyTorch brings included.

    python3 tests/cuda/check.py [--program P] [--tests T] [--parts card,tests,ranks,training,demo,bench,twin] [--out FOLDER]

Every part runs, whatever became of the others; the exit code is 1 if one failed. FOLDER gets ``check.log``, what all
programs said, and ``results.jsonl``, a line for each measurement.
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

PROJECT = Path(__file__).parent.parent.parent
GOLDEN = PROJECT / "trainer/tests/golden"
PARTS = ("card", "tests", "ranks", "training", "demo", "bench", "twin")
MOST = 790e12
"""What an H100 or H200 multiplies a second in bfloat16, as large products were measured on them."""
BATCHES = {"RN50": 512, "ViT-B-16": 768, "ViT-L-14": 256, "ViT-L-14-336": 96, "ViT-H-14": 128}
"""Pairs of a step of each model: what fits into 80 GB beside PyTorch's activations."""
FLOPS = {}
"""Of a pair's step by model and stage, as our program counts them; PyTorch's share is reckoned from the same."""
TOLERANCE = {"Fp32": 2e-3, "Bf16": 5e-2}
"""How far the losses of eight steps may lie from the CPU's. Sums are added in another order, and AdamW's first steps
make a whole step of any gradient, however small."""


def main():
    chosen = command_line()
    chosen.out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path(), "RUST_BACKTRACE": "1"}
    failed = []
    for part in chosen.parts:
        print(f"\n=== {part}", flush=True)
        start = time.monotonic()
        try:
            globals()[f"check_{part}"](chosen, environment)
        except (Wrong, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            print(f"FAILED: {error}", flush=True)
            failed.append(part)
        print(f"--- {part}: {time.monotonic() - start:.1f} s", flush=True)
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'all parts passed'}", flush=True)
    return bool(failed)


DEMO_STEPS, WINDOW = 300, 25
CURVE = {"Fp32": 0.02, "Bf16": 0.04}
"""How far the means of so many losses of the demo may lie from the CPU's, as a part of these. Two runs whose numbers
round otherwise are as far from one another after some hundred steps."""


def command_line():
    parser = argparse.ArgumentParser(description="Tests, a training and benchmarks on this machine's GPU.")
    parser.add_argument("--program", type=Path, default=PROJECT / "target/cuda/cnclip")
    parser.add_argument("--tests", type=Path, default=PROJECT / "target/cuda/device-tests")
    parser.add_argument("--pairs", type=Path, default=PROJECT / "target/cuda/emoji", help="of the part demo")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", PROJECT / "target/cuda/results")))
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--filter", default="", help="only the tests whose name has this word")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(BATCHES))
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed of each benchmark")
    parser.add_argument("--batch", type=int, help="pairs of a step, instead of the model's own")
    parser.add_argument("--compile", action="store_true", help="let PyTorch compile its model (a minute each)")
    chosen = parser.parse_args()
    chosen.log = chosen.out / "check.log"
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return chosen


class Wrong(Exception):
    """A part did not find what it should; `said` is what a program wrote to its standard output."""

    said = ""


def library_path():
    """Where the loader looks: the libraries inside Python's packages, and NCCL by the name it is loaded by."""
    specification = importlib.util.find_spec("nvidia")
    roots = list(specification.submodule_search_locations) if specification else []
    folders = [str(folder) for root in roots for folder in sorted(Path(root).glob("*/lib"))]
    links = Path(tempfile.mkdtemp(prefix="cnclip-libraries-"))
    for folder in folders:
        for library in Path(folder).glob("libnccl.so.2"):
            (links / "libnccl.so").symlink_to(library)
    return ":".join([*folders, str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def check_card(chosen, environment):
    """The program sees the card, and the card computes."""
    print(run([chosen.program, "device"], environment, chosen.log), flush=True)


def check_tests(chosen, environment):
    """Every operation, held against the CPU's."""
    tests(chosen, environment, "--test-threads", "4", "--skip", "ranks::", *filter(None, [chosen.filter]))


def check_ranks(chosen, environment):
    """Several ranks on one card, through NCCL. Loading code or freeing memory while ranks wait for each other on one
    card would wait for all of them: code is loaded at the start, and no other test runs beside."""
    several = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "CUDA_MODULE_LOADING": "EAGER", "NCCL_DEBUG": "WARN"}
    tests(chosen, {**environment, **several}, "--test-threads", "1", "ranks::")


def tests(chosen, environment, *arguments):
    environment = {**environment, "CNCLIP_DEVICE": "cuda", "CNCLIP_GOLDEN": str(GOLDEN)}
    words = ""
    try:
        words = run([chosen.tests, *arguments], environment, chosen.log)
    except Wrong as error:
        words = error.said
        raise
    finally:
        print("\n".join([*told(words)][-150:]), flush=True)


def told(words):
    """The lines of a test program that say what failed and why, and its totals."""
    show = False
    for line in words.splitlines():
        show = show or line.startswith("failures:")
        if show or line.startswith("test result") or line.endswith("FAILED"):
            yield line


def check_training(chosen, environment):
    """The same eight steps on the CPU and on the card."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = training(chosen, folder, environment)
        for precision, most in TOLERANCE.items():
            cpu, card = (losses(chosen, config, folder, precision, accelerator, environment)
                         for accelerator in ("None", "Nvidia"))
            apart = max(abs(a - b) for a, b in zip(cpu, card, strict=True))
            record(chosen, {"training": precision, "cpu": cpu, "card": card, "apart": apart})
            if not apart <= most:
                raise Wrong(f"losses in {precision} lie {apart} apart, at most {most} is expected")


def training(chosen, folder, environment):
    """A small model's training on the golden data set."""
    pairs = GOLDEN / "dataset"
    run([chosen.program, "prepare", "--images", pairs / "train_imgs.tsv", "--texts", pairs / "train_texts.jsonl",
         "--output", folder / "data", "--most-skipped", "10"], environment, chosen.log)
    texts = [json.loads(line)["text"] for line in (pairs / "train_texts.jsonl").read_text().splitlines()[:-1]]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set("".join(texts)) - set(" \n"))]
    vocabulary = "".join(f"{word}\n" for word in words).encode()
    (folder / "vocab.txt").write_bytes(vocabulary)
    vit = {"layers": 3, "width": 128, "patchSize": 8, "headWidth": 64}
    text = {"vocabSize": len(words), "layers": 2, "width": 128, "heads": 2, "intermediate": 512, "positions": 64,
            "hiddenDropoutPercent": 0, "attentionDropoutPercent": 0}
    return {
        "model": {"embedDim": 64, "image": {"resolution": 64, "vit": vit}, "text": text},
        "contextLength": 32, "dataset": str(folder / "data"), "length": {"steps": 8}, "globalBatchSize": 16,
        "vocabulary": {"uri": str(folder / "vocab.txt"), "sha256": hashlib.sha256(vocabulary).hexdigest()},
        "optimizer": {"learningRate": 1e-4, "warmupSteps": 4, "weightDecay": 0.1, "beta1": 0.9, "beta2": 0.98,
                      "epsilon": 1e-6},
        "checkpoint": {"everySteps": 4, "keep": 1}, "seed": 1, "reportEverySteps": 1, "maxSkippedPercent": 10,
    }


def losses(*how):
    """The loss of each step."""
    return [row["loss"] for row in trained(*how) if "loss" in row]


def trained(chosen, config, folder, precision, accelerator, environment):
    """What a training reported after each step."""
    name = f"{precision}-{accelerator}"
    world = {"replicas": 1, "devices": 1, "accelerator": accelerator, "precision": precision}
    run_as = {"name": name, "uid": "", "stage": "train", "attempt": 1}
    (folder / f"{name}.json").write_text(json.dumps({**config, "run": run_as, "world": world,
                                                     "artifacts": str(folder / name)}))
    run([chosen.program, "train", "--config", folder / f"{name}.json"], environment, chosen.log)
    return [json.loads(line) for line in (folder / name / "train/metrics.jsonl").read_text().splitlines()]


def check_demo(chosen, environment):
    """The demo's first training, shortened, on the CPU and on the card: curves and recall."""
    if not (chosen.pairs / "train/index.json").exists():
        raise Wrong(f"{chosen.pairs} holds no pairs: make cuda lays them beside the programs; --pairs names another place")
    with tempfile.TemporaryDirectory() as folder:
        folder, config = Path(folder), demo(chosen.pairs)
        right = curve(chosen, config, folder, "Fp32", "None", environment)
        for precision, most in CURVE.items():
            found = curve(chosen, config, folder, precision, "Nvidia", environment)
            apart = max(abs(a / b - 1) for a, b in zip(found["means"], right["means"], strict=True))
            record(chosen, {"demo": precision, "apart": apart, "cpu": right, "card": found})
            if not apart <= most:
                raise Wrong(f"curves in {precision} lie {apart:.3f} apart, at most {most} is expected")


def demo(pairs):
    """The model, the data and the recipe of tests/demo/english.yaml."""
    vocabulary = (pairs / "vocab.txt").read_bytes()
    text = {"vocabSize": len(vocabulary.splitlines()), "layers": 1, "width": 128, "heads": 2, "intermediate": 512,
            "positions": 64, "hiddenDropoutPercent": 0, "attentionDropoutPercent": 0}
    image = {"resolution": 32, "resnet": {"layers": [1, 1, 1, 1], "width": 32}}
    return {
        "model": {"embedDim": 128, "image": image, "text": text}, "contextLength": 24,
        "dataset": str(pairs / "train"), "length": {"steps": DEMO_STEPS}, "globalBatchSize": 256,
        "vocabulary": {"uri": str(pairs / "vocab.txt"), "sha256": hashlib.sha256(vocabulary).hexdigest()},
        "optimizer": {"learningRate": 2e-3, "warmupSteps": 60, "weightDecay": 0.1, "beta1": 0.9, "beta2": 0.98,
                      "epsilon": 1e-6},
        "augmentation": "CropFlip", "validation": {"dataset": str(pairs / "valid"), "everySteps": DEMO_STEPS},
        "checkpoint": {"everySteps": DEMO_STEPS, "keep": 1}, "seed": 1, "reportEverySteps": 1,
    }


def curve(chosen, config, folder, precision, accelerator, environment):
    """Means of the losses of neighbouring steps, and the recall at the end."""
    rows = trained(chosen, config, folder, precision, accelerator, environment)
    all_losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    values = [all_losses[step] for step in sorted(all_losses)]
    means = [sum(values[at:at + WINDOW]) / WINDOW for at in range(0, DEMO_STEPS, WINDOW)]
    recall = [row["recalls"]["textToImage"]["meanRecall"] for row in rows if row.get("recalls")]
    return {"means": [round(mean, 4) for mean in means], "recall": recall[-1]}


def check_bench(chosen, environment):
    """Pairs a second of both stages of every model."""
    bench(chosen, environment, "ours", lambda preset, batch: [
        chosen.program, "bench", "--preset", preset, "--batch", batch, "--steps", chosen.steps, "--bf16", "--card"])


def check_twin(chosen, environment):
    """The same by PyTorch."""
    more = ["--compile"] if chosen.compile else []
    bench(chosen, environment, "pytorch", lambda preset, batch: [
        sys.executable, PROJECT / "tests/cuda/twin.py", "--preset", preset, "--batch", batch,
        "--steps", chosen.steps, *more])


def bench(chosen, environment, who, command):
    wrong = []
    for preset in chosen.presets:
        try:
            words = run(command(preset, chosen.batch or BATCHES[preset]), environment, chosen.log)
        except Wrong as error:
            print(f"{preset}: {error}", flush=True)
            wrong.append(preset)
            continue
        for line in filter(lambda line: line.startswith("{"), words.splitlines()):
            measured = json.loads(line)
            kind = (preset, measured.get("stage"))
            FLOPS.setdefault(kind, measured.get("flopsPerPair"))
            if FLOPS[kind] and "pairsPerSecond" in measured:
                measured["share"] = measured["pairsPerSecond"] * FLOPS[kind] / MOST
            record(chosen, {"who": who, **measured})
    if wrong:
        raise Wrong(f"no measurement of {', '.join(wrong)}")


def record(chosen, result):
    """Keeps a measurement and shows it."""
    line = json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()})
    print(line, flush=True)
    with open(chosen.out / "results.jsonl", "a") as results:
        results.write(line + "\n")


def run(command, environment, log, seconds=300):
    """What a program writes to its standard output; both its outputs are added to `log`."""
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as program:
            try:
                said, _ = program.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                program.kill()
                said, _ = program.communicate()
        errors.seek(0)
        told = said + errors.read()
    with open(log, "a") as all_words:
        all_words.write(f"$ {' '.join(words)}\n{told}\n")
    if program.returncode:
        end = "\n".join(told.splitlines()[-12:])
        wrong = Wrong(f"`{' '.join(words)}` exited with {program.returncode}:\n{end}")
        wrong.said = said
        raise wrong
    return said


if __name__ == "__main__":
    sys.exit(main())
