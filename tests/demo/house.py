"""What the demo and the ablation need around them: the operator, the data sets, and hands for manifests."""

import json
import os
from contextlib import contextmanager

from bed import images
from bed.processes import quiet, run, show
from bed.steps import Failure, step

from . import place, s3

HERE = images.PROJECT / "tests/demo"
EMOJI = images.PROJECT / "target/demo/emoji"
SYSTEM, NAMESPACE = "cnclip-system", "cnclip-demo"

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


@contextmanager
def house():
    """A place with the operator and the data sets in it, taken down again if it was brought up for this."""
    keep = bool(os.environ.get("KEEP"))
    chosen = place.chosen()
    chosen.prepare()
    build_data_set()
    with chosen.open() as where:
        try:
            with step("demo", "installing the chart"):
                install(where)
            upload(where)
            yield where
        except Failure:
            tell_pods(where)
            raise
        finally:
            if where.borrowed and not keep:
                uninstall(where)
    if keep:
        print("Kept. To look around:\n  " + "\n  ".join(chosen.how_to_look()))


def build_data_set():
    """The emoji pictures with their Chinese and English names, kept from one demo to the next."""
    show(images.PROJECT / "tests/emoji/build", EMOJI)


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
            run(program, "prepare", "--images", EMOJI / pictures, "--texts", EMOJI / texts,
                "--output", f"{where.root}/emoji/{folder}/",
                env={**os.environ, **where.store_environment()})


def apply(where, *names):
    """Applies manifests of this folder, with the place's own root in them."""
    with step("demo", f"kubectl apply {' '.join(names)}"):
        for name in names:
            text = (HERE / name).read_text().replace(ROOT, f"{where.root}/")
            run(*where.kubectl, "--namespace", NAMESPACE, "apply", "--filename", "-", input=text)


def fetch_report(where, each, folder):
    """Brings a run's page out of the store; where it is now."""
    path = folder / f"{each.kind.removeprefix('CnClip').lower()}-{each.name}.html"
    path.write_bytes(s3.read(where.s3, each.status["report"]))
    return path


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
