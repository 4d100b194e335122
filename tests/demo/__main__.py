"""The demo from beginning to end; each step says what it does and how long it took."""

import json
import os
import subprocess
import time

from bed import images
from bed.processes import quiet, run, show
from bed.steps import Failure, main, since, step

from . import place, s3, summary, watch

HERE = images.PROJECT / "tests/demo"
OUT = images.PROJECT / "target/demo"
SYSTEM, NAMESPACE = "cnclip-system", "cnclip-demo"
FIRST, THEN = ("english.yaml",), ("chinese.yaml", "evaluation.yaml")
"""What is applied at once, and what when that is complete: the second begins with the first one's weights."""

DATA_SETS = {  # folder in the store: pictures and texts in the data set
    "en/train": ("en/train_imgs.tsv", "en/train_texts.jsonl"),
    "en/valid": ("en/valid_imgs.tsv", "en/valid_texts.jsonl"),
    "zh/train": ("train_imgs.tsv", "train_texts.jsonl"),
    "zh/names": ("train_imgs.tsv", "train_names_texts.jsonl"),
    "zh/valid": ("valid_imgs.tsv", "valid_texts.jsonl"),
    "zh/test": ("test_imgs.tsv", "test_texts.jsonl"),
}
ROOT = "s3://cnclip/"
"""Where the manifests have everything; the place's own root is put there."""


def demo():
    begin = time.monotonic()
    keep = bool(os.environ.get("KEEP"))
    chosen = place.chosen()
    chosen.prepare()
    build_data_set()
    with chosen.open() as where:
        try:
            with step("demo", "installing the chart"):
                install(where)
            upload(where)
            finish(where, begin, time.monotonic() - begin)
        except Failure:
            tell_pods(where)
            raise
        finally:
            if where.borrowed and not keep:
                uninstall(where)
    if keep:
        print("Kept. To look around:\n  " + "\n  ".join(chosen.how_to_look()))
    print(f"demo: done in {since(begin)}")


def build_data_set():
    """The emoji pictures with their Chinese and English names, kept from one demo to the next."""
    show(images.PROJECT / "tests/emoji/build", OUT / "emoji")


def install(where):
    """The operator in one namespace and the runs in another, both as restricted as a namespace can be."""
    for namespace in (SYSTEM, NAMESPACE):
        make(where, {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    make(where, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "namespace": NAMESPACE},
                 "stringData": where.store_environment()})
    run(*where.helm, "upgrade", "--install", "cnclip", images.PROJECT / "charts/cn-clip",
        "--namespace", SYSTEM, "--wait", "--timeout", "2m",
        *(f"--set=image.{name}={image}" for name, image in where.images.items()))


def make(where, thing):
    run(*where.kubectl, "apply", "--filename", "-", input=json.dumps(thing))


def upload(where):
    """Turns the data set into shards in the store, as a user does by hand."""
    program = images.compile_release() / images.PROGRAMS["trainer"]
    for folder, (pictures, texts) in DATA_SETS.items():
        with step("demo", f"uploading {folder}"):
            run(program, "prepare", "--images", OUT / "emoji" / pictures, "--texts", OUT / "emoji" / texts,
                "--output", f"{where.root}/emoji/{folder}/",
                env={**os.environ, **where.store_environment()})


def apply(where, *names):
    with step("demo", f"kubectl apply {' '.join(names)}"):
        for name in names:
            text = (HERE / name).read_text().replace(ROOT, f"{where.root}/")
            run(*where.kubectl, "--namespace", NAMESPACE, "apply", "--filename", "-", input=text)


def finish(where, begin, setup):
    """Starts the runs, watches them to their end and leaves the summary and the report."""
    memory = OperatorMemory(where)
    for names in (FIRST, THEN):
        apply(where, *names)
        done = watch.until_done(where, NAMESPACE, memory.look)
    pages = [fetch_report(where, each) for each in done]
    seconds = {"setup": round(setup, 1), "total": round(time.monotonic() - begin, 1)}
    result = summary.of(done, seconds, memory.peak, pages[-1])
    summary.write(result, OUT / "summary.json")
    print(f"\n{summary.table(result)}\n\nsummary  {OUT / 'summary.json'}", *pages, sep="\nreport   ")


def fetch_report(where, each):
    """Brings a run's page out of the store; where it is now."""
    path = OUT / f"{each.kind.removeprefix('CnClip').lower()}-{each.name}.html"
    path.write_bytes(s3.read(where.s3, each.status["report"]))
    return path


class OperatorMemory:
    """The most memory the operator was seen to hold, in bytes, by its own metric."""

    def __init__(self, where):
        self.kubectl = where.kubectl
        self.peak = 0

    def look(self):
        pods = json.loads(run(*self.kubectl, "--namespace", SYSTEM, "get", "pods", "--output", "json"))["items"]
        for pod in pods:
            proxy = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
            answer = subprocess.run([*self.kubectl, "get", "--raw", proxy], capture_output=True, text=True).stdout
            values = [float(line.split()[1]) for line in answer.splitlines()
                      if line.startswith("process_resident_memory_bytes ")]
            self.peak = max([self.peak, *map(int, values)])


def tell_pods(where):
    """What the pods said last, for whoever has to find out why the demo failed."""
    for namespace in (SYSTEM, NAMESPACE):
        names = run(*where.kubectl, "--namespace", namespace, "get", "pods", "--output", "name").split()
        for name in names:
            log = run(*where.kubectl, "--namespace", namespace, "logs", "--tail=15", "--ignore-errors", name)
            print(f"--- {namespace} {name}\n{log}")


def uninstall(where):
    """Takes away what `install` and `apply` made. The custom resource definitions stay, as Helm has it."""
    with step("demo", "removing the runs and the operator"):
        quiet(*where.kubectl, "delete", "namespace", NAMESPACE, "--timeout=60s")
        quiet(*where.helm, "uninstall", "cnclip", "--namespace", SYSTEM, "--wait")
        quiet(*where.kubectl, "delete", "namespace", SYSTEM, "--timeout=60s")


main(demo)
