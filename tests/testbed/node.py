"""A real node: containerd, runc, the bridge network and a kubelet, as one process that ends together with its pods."""

import json
import os
import shutil
from pathlib import Path

from cnclip_build.commands import run, succeeds
from cnclip_build.oci import Image
from cnclip_build.progress import Failure

from .control_plane import kubectl
from .processes import running, start, wait_until, wait_until_ready
from .tools import program

PAUSE_IMAGE = "cnclip.local/pause:1"


def create_bridge(testbed):
    """Creates the pods' network bridge, with the addresses at which pods reach S3 and the API server."""
    if not succeeds("ip", "link", "show", testbed.bridge):
        run("ip", "link", "add", testbed.bridge, "type", "bridge")
    # A bridge without a MAC address of its own takes one of its ports' and changes it as pods come and go. Other pods
    # would then send to the old address until their ARP entries expire: for minutes.
    run("ip", "link", "set", testbed.bridge, "address", testbed.hardware_address)
    run("ip", "address", "replace", f"{testbed.address}/16", "dev", testbed.bridge)
    run("ip", "address", "replace", f"{testbed.api_address}/32", "dev", testbed.bridge)
    run("ip", "link", "set", testbed.bridge, "up")


def start_node(testbed, pki):
    """Starts the node without pods; what an earlier node left on disk is deleted, images apart."""
    if running(testbed, "node"):
        return
    require_cgroup_v1()
    for stale in ("addresses", "run", "kubelet", "pods"):
        shutil.rmtree(testbed.root / stale, ignore_errors=True)
    write_network_config(testbed)
    (testbed.root / "resolv.conf").write_text(f"nameserver {testbed.address}\n")
    start(testbed, "node", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup",
          Path(__file__).with_name("node.sh"), testbed.node, write_containerd_config(testbed), testbed.containerd,
          program("kubelet"), "--config", write_kubelet_config(testbed, pki), "--kubeconfig", pki / "node.kubeconfig",
          "--hostname-override", testbed.node, "--node-ip", testbed.address,
          "--root-dir", testbed.folder("kubelet"), "--cert-dir", testbed.folder("kubelet-pki"))
    # Recorded now, because `down` may be called from a process in other cgroups.
    (testbed.root / "cgroups").write_text("\n".join(node_cgroups(testbed)))


def wait_for_node(testbed):
    """Waits until the node is ready, and loads the pause image that every pod needs."""
    wait_until_ready(testbed, "node", lambda: succeeds(*ctr(testbed), "version"))
    load_images(testbed, build_pause_image(testbed))
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    wait_until_ready(testbed, "node", lambda: run(
        *kubectl(testbed), "get", "node", testbed.node, "--ignore-not-found", "-o", ready) == "True")


def load_images(testbed, *archives):
    """Imports image archives into the node's store, in place of a pull from a registry."""
    for archive in archives:
        run(*ctr(testbed), "images", "import", archive)


def ctr(testbed):
    """The start of every command line of containerd's client."""
    return "ctr", "--address", testbed.containerd, "--namespace", "k8s.io"


def require_cgroup_v1():
    """Raises a Failure on a machine with cgroup v2 only, which node.sh does not set up."""
    if "2:" not in Path("/proc/self/cgroup").read_text():
        raise Failure("this machine has only cgroup v2, and the testbed's node needs v1. Use an existing cluster: "
                      "CLUSTER=current takes the one of your kubeconfig (kind and k3s work).")


def build_pause_image(testbed):
    """Compiles and packs the image that holds a pod's namespaces; returns its archive."""
    tar = testbed.root / "pause.tar"
    if not tar.exists():
        binary = testbed.root / "pause"
        run("cc", "-static", "-Os", "-s", "-o", binary, Path(__file__).with_name("pause.c"))
        Image(entrypoint=["/pause"]).add_file("/pause", binary.read_bytes(), 0o755).write(tar, PAUSE_IMAGE)
    return tar


def write_network_config(testbed):
    """Writes the CNI configuration: pods reach each other and the machine over the bridge, and nothing else."""
    network = {"cniVersion": "1.0.0", "name": "testbed", "plugins": [{
        "type": "bridge", "bridge": testbed.bridge, "hairpinMode": True,
        "ipam": {"type": "host-local", "dataDir": str(testbed.root / "addresses"), "routes": [{"dst": "0.0.0.0/0"}],
                 "ranges": [[{"subnet": testbed.subnet, "gateway": testbed.address,
                              "rangeStart": f"10.{testbed.network}.1.1",
                              "rangeEnd": f"10.{testbed.network}.1.254"}]]}}]}
    (testbed.folder("network") / "testbed.conflist").write_text(json.dumps(network))


def write_containerd_config(testbed):
    """Writes containerd's configuration; returns its path."""
    path = testbed.root / "containerd.toml"
    path.write_text(f"""version = 2
root = "{testbed.root}/containerd"
state = "{testbed.root}/run/containerd"
[grpc]
  address = "{testbed.containerd}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{testbed.root}/network"
""")
    return path


def write_kubelet_config(testbed, pki):
    """Writes the kubelet's configuration; returns its path."""
    path = testbed.root / "kubelet.json"
    path.write_text(json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{testbed.node}",
        "containerRuntimeEndpoint": f"unix://{testbed.containerd}",
        "address": testbed.address,
        "healthzBindAddress": testbed.loopback,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(pki / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "clusterDNS": [testbed.address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(testbed.root / "resolv.conf"),
        "podLogsDir": str(testbed.folder("pods")),
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        # The machine is shared with builds: a nearly full disk must not evict the tests' pods.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Images cannot be pulled again, so they are never garbage-collected.
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 8,
    }, indent=1))
    return path


def node_cgroups(testbed):
    """The paths, as the machine sees them, of the cgroups that the node creates and that outlive its processes."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers:
            yield f"/sys/fs/cgroup/{controllers.removeprefix('name=')}{group.rstrip('/')}/{testbed.node}"


def remove_leftovers(testbed):
    """Removes what remains of a node after its processes have ended: empty cgroups, and the bridge."""
    record = testbed.root / "cgroups"
    if record.exists():
        for group in record.read_text().split():
            wait_until(lambda: remove_cgroup(group), 5)
        record.unlink()
    succeeds("ip", "link", "delete", testbed.bridge)


def remove_cgroup(group):
    """Removes a cgroup and its descendants; returns False while one of them still has a process that is exiting."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True
