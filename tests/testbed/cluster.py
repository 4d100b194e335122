"""Starts and stops a whole testbed."""

import fcntl
import json
import os
import shutil
import signal
import time
from contextlib import contextmanager

from cnclip_build import images
from cnclip_build.paths import CACHE
from cnclip_build.progress import Failure, elapsed, step

from . import control_plane, node, pki, processes, services, tools

STOP_ORDER = ("prometheus", "discovery", "node", "dns", *reversed(control_plane.PROCESSES), "s3")
"""The processes of a testbed, in the order in which they are stopped: clients before the servers they use."""


def up(testbed):
    """Starts everything that is not running and writes the connection file."""
    require_root()
    tools.install()
    start = time.monotonic()
    pki_folder = pki.create(testbed)
    node.create_bridge(testbed)
    # Everything of a group is started before anything of it is waited for, so start-up times overlap.
    with step("testbed", "starting etcd, S3 and the API server"):
        control_plane.start_etcd(testbed)
        services.start_s3(testbed)
        control_plane.start_api_server(testbed, pki_folder)
        control_plane.wait_for_api_server(testbed)
        services.wait_for_s3(testbed)
    with step("testbed", "starting controllers, DNS, a node and Prometheus"):
        control_plane.start_controllers(testbed, pki_folder)
        services.start_dns(testbed)
        node.start_node(testbed, pki_folder)
        services.start_prometheus(testbed)
        control_plane.wait_for_controllers(testbed)
        services.wait_for_dns(testbed)
        node.wait_for_node(testbed)
        services.wait_for_prometheus(testbed)
    image_names = load_images(testbed)
    testbed.connection_file.write_text(json.dumps(connection(testbed, image_names), indent=1))
    print(f"testbed: running after {elapsed(start)}; KUBECONFIG={testbed.kubeconfig}")


def require_root():
    """Raises a Failure unless run as root."""
    if os.geteuid():
        raise Failure("the testbed needs root: its node creates a network bridge, mounts and cgroups. Run this as "
                      "root, or use an existing cluster: CLUSTER=current takes the one of your kubeconfig.")


def load_images(testbed):
    """Loads the project's images into the node, if they were built; returns their names."""
    built = images.OUT / "images.json"
    if not built.exists():
        return {}
    names = json.loads(built.read_text())
    with step("testbed", f"loading the images {' and '.join(names)}"):
        node.load_images(testbed, *(images.OUT / f"{name}.tar" for name in names))
    return names


def connection(testbed, image_names):
    """What tests and the demo need in order to use the testbed; tests/src/testbed.rs reads it too."""
    return {
        "kubeconfig": str(testbed.kubeconfig),
        "kubectl": str(tools.program("kubectl")),
        "helm": str(tools.program("helm")),
        "node": testbed.node,
        "containerd": str(testbed.containerd),
        "prometheus": testbed.prometheus,
        "s3": {"endpoint": testbed.s3, "bucket": services.BUCKET, "region": services.REGION,
               **services.s3_keys(testbed)},
        "images": image_names,
    }


def down(testbed, wipe):
    """Stops what `up` started; with `wipe` also deletes the testbed's data."""
    if not testbed.root.exists():
        return
    with step("testbed", "stopping"):
        for name in STOP_ORDER:
            # The node has no state to save. Killing `unshare` kills PID 1 of the node's namespace (--kill-child), and
            # with it every process of every pod.
            processes.stop(testbed, name, gracefully=name != "node")
        node.remove_leftovers(testbed)
        testbed.connection_file.unlink(missing_ok=True)
        if wipe:
            shutil.rmtree(testbed.root)


@contextmanager
def fresh(testbed, keep=False):
    """An empty testbed for the enclosed work, removed afterwards on every exit path; `keep` leaves it running."""
    with exclusive(testbed):
        # SIGTERM and SIGHUP become KeyboardInterrupt, so that the cleanup below also runs for them.
        set_signal_handlers(signal.default_int_handler)
        down(testbed, wipe=True)
        try:
            up(testbed)
            yield
        finally:
            if not keep:
                # A second Ctrl-C must not interrupt the cleanup.
                set_signal_handlers(signal.SIG_IGN)
                down(testbed, wipe=True)
                set_signal_handlers(signal.default_int_handler)


def set_signal_handlers(handler):
    """Installs a handler for all signals that ask this program to exit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


@contextmanager
def exclusive(testbed):
    """Raises a Failure if another program is using the same testbed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{testbed.node}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"another demo or test is using {testbed.root}. Wait for it to finish, or set "
                          "TESTBED_NETWORK to another number from 88 to 95.") from error
        yield
