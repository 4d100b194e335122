"""Brings a whole bed up and takes it down again."""

import fcntl
import json
import os
import shutil
import signal
import time
from contextlib import contextmanager

from . import control_plane, images, node, pki, processes, services, tools
from .place import CACHE
from .steps import Failure, since, step

PROCESSES = ("prometheus", "targets", "node", "dns", *reversed(control_plane.PROCESSES), "s3")
"""In the order in which they are ended."""


def up(bed):
    """Brings up whatever is not up, and says in bed.json how to reach it."""
    refuse_without_root()
    tools.get()
    begin = time.monotonic()
    authorities = pki.make(bed)
    node.make_bridge(bed)
    with step("bed", "etcd, S3 and the API server"):
        control_plane.start_stores(bed)
        services.start_s3(bed)
        control_plane.start_api(bed, authorities)
        control_plane.await_api(bed)
        services.await_s3(bed)
    with step("bed", "controllers, DNS, a node and Prometheus"):
        control_plane.start_controllers(bed, authorities)
        services.start_dns(bed)
        node.start_node(bed, authorities)
        services.start_prometheus(bed)
        control_plane.await_controllers(bed)
        services.await_dns(bed)
        node.await_node(bed)
        services.await_prometheus(bed)
    names = load_images(bed)
    bed.facts.write_text(json.dumps(facts(bed, names), indent=1))
    print(f"bed: up after {since(begin)}; KUBECONFIG={bed.kubeconfig}")


def refuse_without_root():
    if os.geteuid():
        raise Failure("a bed needs root: its node makes a network bridge, mounts and cgroups. Run it as root, or use "
                      "a cluster that you have: CLUSTER=current takes the one of your kubeconfig.")


def load_images(bed):
    """Loads the images that were built, and returns their names."""
    built = images.OUT / "images.json"
    if not built.exists():
        return {}
    names = json.loads(built.read_text())
    with step("bed", f"loading {' and '.join(names)} images"):
        node.load(bed, *(images.OUT / f"{name}.tar" for name in names))
    return names


def facts(bed, names):
    """Everything that a test or the demo has to know about the bed."""
    return {
        "kubeconfig": str(bed.kubeconfig),
        "kubectl": str(tools.program("kubectl")),
        "helm": str(tools.program("helm")),
        "node": bed.node,
        "containerd": str(bed.containerd),
        "prometheus": bed.prometheus,
        "s3": {"endpoint": bed.s3, "bucket": services.BUCKET, "region": services.REGION, **services.s3_keys(bed)},
        "images": names,
    }


def down(bed, wipe):
    """Ends what `up` started; with `wipe` the bed's data goes too."""
    if not bed.root.exists():
        return
    with step("bed", "down"):
        for name in PROCESSES:
            # The node has no last words, and one signal to its first process ends every pod.
            processes.end(bed, name, gently=name != "node")
        node.remove_leftovers(bed)
        bed.facts.unlink(missing_ok=True)
        if wipe:
            shutil.rmtree(bed.root)


@contextmanager
def fresh(bed, keep=False):
    """An empty bed while the work inside goes on, and none after it, however it ends; `keep` leaves it."""
    with alone(bed):
        on_signals(signal.default_int_handler)
        down(bed, wipe=True)
        try:
            up(bed)
            yield
        finally:
            if not keep:
                on_signals(signal.SIG_IGN)
                down(bed, wipe=True)
                on_signals(signal.default_int_handler)


def on_signals(answer):
    """What is done when somebody asks this program to end."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, answer)


@contextmanager
def alone(bed):
    """Refuses to begin while another program is at work on the same bed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{bed.node}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise Failure(f"another demo or test is at work on {bed.root}. Wait for it, or set BED_NET to another "
                          "number from 88 to 95.") from taken
        yield
