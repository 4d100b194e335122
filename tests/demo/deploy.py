"""Deploys what the demo and the ablation need: the operator, the data sets and the manifests of the runs."""

import json
import os
from contextlib import contextmanager

from cnclip_build import images
from cnclip_build.commands import run, show, succeeds
from cnclip_build.paths import PROJECT
from cnclip_build.progress import Failure, step

from . import clusters, s3

MANIFESTS = PROJECT / "tests/demo"
EMOJI = PROJECT / "target/demo/emoji"
OPERATOR_NAMESPACE, RUN_NAMESPACE = "cnclip-system", "cnclip-demo"
RELEASE = "cnclip"

DATA_SETS = {  # folder in the object store: images and texts in the data set
    "en/train": ("en/train_imgs.tsv", "en/train_texts.jsonl"),
    "en/valid": ("en/valid_imgs.tsv", "en/valid_texts.jsonl"),
    "zh/train": ("train_imgs.tsv", "train_texts.jsonl"),
    "zh/names": ("train_imgs.tsv", "train_names_texts.jsonl"),
    "zh/valid": ("valid_imgs.tsv", "valid_texts.jsonl"),
    "zh/test": ("test_imgs.tsv", "test_texts.jsonl"),
}
MANIFEST_ROOT = "s3://cnclip/"
"""The prefix of all URIs in the manifests; replaced by the environment's own."""


@contextmanager
def deployed():
    """An environment with the operator and the data sets; what was started for it is removed afterwards."""
    keep = bool(os.environ.get("KEEP"))
    cluster = clusters.selected()
    cluster.prepare()
    build_data_set()
    with cluster.open() as environment:
        try:
            with step("demo", "installing the chart"):
                install(environment)
            upload(environment)
            yield environment
        except Failure:
            print_pod_logs(environment)
            raise
        finally:
            # A cluster of our own is removed whole.
            if environment.is_shared and not keep:
                uninstall(environment)
    if keep:
        print("The cluster is still running. To use it:\n  " + "\n  ".join(cluster.usage()))


def build_data_set():
    """Builds the emoji data set, which is kept from one demo to the next."""
    show(PROJECT / "tests/emoji/build", EMOJI)


def install(environment):
    """Installs the operator in one namespace and prepares another for the runs, both `restricted`."""
    for namespace in (OPERATOR_NAMESPACE, RUN_NAMESPACE):
        apply_object(environment, {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    apply_object(environment, {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "namespace": RUN_NAMESPACE},
        "stringData": environment.store_variables()})
    run(*environment.helm, "upgrade", "--install", RELEASE, PROJECT / "charts/cn-clip",
        "--namespace", OPERATOR_NAMESPACE, "--wait", "--timeout", "2m",
        *(f"--set=image.{name}={image}" for name, image in environment.images.items()))


def apply_object(environment, manifest):
    """Applies one object."""
    run(*environment.kubectl, "apply", "--filename", "-", input=json.dumps(manifest))


def upload(environment):
    """Uploads the data sets as shards, with the command that users run too."""
    program = images.compile_release() / images.PROGRAMS["trainer"]
    for folder, (image_file, text_file) in DATA_SETS.items():
        with step("demo", f"uploading {folder}"):
            run(program, "prepare", "--images", EMOJI / image_file, "--texts", EMOJI / text_file,
                "--output", f"{environment.root}/emoji/{folder}/",
                env={**os.environ, **environment.store_variables()})


def apply(environment, *names):
    """Applies manifests of this folder, with the environment's prefix in their URIs."""
    with step("demo", f"kubectl apply {' '.join(names)}"):
        for name in names:
            text = (MANIFESTS / name).read_text().replace(MANIFEST_ROOT, f"{environment.root}/")
            run(*environment.kubectl, "--namespace", RUN_NAMESPACE, "apply", "--filename", "-", input=text)


def fetch_report(environment, completed, folder):
    """Downloads the report page of a completed run; returns its path."""
    path = folder / f"{completed.kind.removeprefix('CnClip').lower()}-{completed.name}.html"
    path.write_bytes(s3.read(environment.s3, completed.status["report"]))
    return path


def print_pod_logs(environment):
    """Prints the end of every pod's log, to help find out why the demo failed."""
    for namespace in (OPERATOR_NAMESPACE, RUN_NAMESPACE):
        pods = run(*environment.kubectl, "--namespace", namespace, "get", "pods", "--output", "name").split()
        for pod in pods:
            log = run(*environment.kubectl, "--namespace", namespace, "logs", "--tail=15", "--ignore-errors", pod)
            print(f"--- {namespace} {pod}\n{log}")


def uninstall(environment):
    """Removes what `install` and `apply` created. The custom resource definitions are kept, as by `helm uninstall`."""
    with step("demo", "removing the runs and the operator"):
        succeeds(*environment.kubectl, "delete", "namespace", RUN_NAMESPACE, "--timeout=60s")
        succeeds(*environment.helm, "uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait")
        succeeds(*environment.kubectl, "delete", "namespace", OPERATOR_NAMESPACE, "--timeout=60s")
