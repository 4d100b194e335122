"""A real node: containerd, runc, the bridge network and a kubelet, as one process that ends with all its pods."""

import json
import os
import shutil
from pathlib import Path

from .control_plane import kubectl
from .oci import Image
from .processes import alive, quiet, run, start, wait, wait_ready
from .steps import Failure
from .tools import program

PAUSE = "cnclip.local/pause:1"


def make_bridge(bed):
    """The pods' network: the machine is on it with the address that pods use for S3 and the API server."""
    if not quiet("ip", "link", "show", bed.bridge):
        run("ip", "link", "add", bed.bridge, "type", "bridge")
    # Without an address of its own a bridge takes one of its pods' and changes it as pods come and go, and the
    # others' packets go nowhere until their kernels have forgotten the old one: minutes.
    run("ip", "link", "set", bed.bridge, "address", bed.hardware_address)
    run("ip", "address", "replace", f"{bed.address}/16", "dev", bed.bridge)
    run("ip", "address", "replace", f"{bed.api_address}/32", "dev", bed.bridge)
    run("ip", "link", "set", bed.bridge, "up")


def start_node(bed, pki):
    if alive(bed, "node"):
        return
    refuse_cgroup_v2()
    for stale in ("addresses", "run", "kubelet", "pods"):
        shutil.rmtree(bed.root / stale, ignore_errors=True)
    write_network(bed)
    (bed.root / "resolv.conf").write_text(f"nameserver {bed.address}\n")
    start(bed, "node", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup",
          Path(__file__).with_name("node.sh"), bed.node, containerd_config(bed), bed.containerd,
          program("kubelet"), "--config", kubelet_config(bed, pki), "--kubeconfig", pki / "node.kubeconfig",
          "--hostname-override", bed.node, "--node-ip", bed.address,
          "--root-dir", bed.folder("kubelet"), "--cert-dir", bed.folder("kubelet-pki"))
    (bed.root / "cgroups").write_text("\n".join(cgroups(bed)))


def await_node(bed):
    """Ready, with the pause image that every pod needs."""
    wait_ready(bed, "node", lambda: quiet(*ctr(bed), "version"))
    load(bed, pause_image(bed))
    ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    wait_ready(bed, "node", lambda: run(
        *kubectl(bed), "get", "node", bed.node, "--ignore-not-found", "-o", ready) == "True")


def load(bed, *images):
    """Puts images into the node's store, as a pull from a registry would."""
    for image in images:
        run(*ctr(bed), "images", "import", image)


def ctr(bed):
    return "ctr", "--address", bed.containerd, "--namespace", "k8s.io"


def refuse_cgroup_v2():
    if "2:" not in Path("/proc/self/cgroup").read_text():
        raise Failure("this machine has cgroup v2 only and the bed's node knows v1. Use a cluster that you have: "
                      "CLUSTER=current takes the one of your kubeconfig (kind and k3s are fine).")


def pause_image(bed):
    tar = bed.root / "pause.tar"
    if not tar.exists():
        binary = bed.root / "pause"
        run("cc", "-static", "-Os", "-s", "-o", binary, Path(__file__).with_name("pause.c"))
        Image(entrypoint=["/pause"]).file("/pause", binary.read_bytes(), 0o755).write(tar, PAUSE)
    return tar


def write_network(bed):
    """A pod's traffic goes to the machine over the bridge; there is no way further out."""
    network = {"cniVersion": "1.0.0", "name": "bed", "plugins": [{
        "type": "bridge", "bridge": bed.bridge, "hairpinMode": True,
        "ipam": {"type": "host-local", "dataDir": str(bed.root / "addresses"), "routes": [{"dst": "0.0.0.0/0"}],
                 "ranges": [[{"subnet": bed.subnet, "gateway": bed.address,
                              "rangeStart": f"10.{bed.net}.1.1", "rangeEnd": f"10.{bed.net}.1.254"}]]}}]}
    (bed.folder("network") / "bed.conflist").write_text(json.dumps(network))


def containerd_config(bed):
    path = bed.root / "containerd.toml"
    path.write_text(f"""version = 2
root = "{bed.root}/containerd"
state = "{bed.root}/run/containerd"
[grpc]
  address = "{bed.containerd}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{bed.root}/network"
""")
    return path


def kubelet_config(bed, pki):
    path = bed.root / "kubelet.json"
    path.write_text(json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{bed.node}",
        "containerRuntimeEndpoint": f"unix://{bed.containerd}",
        "address": bed.address,
        "healthzBindAddress": bed.loopback,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(pki / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "clusterDNS": [bed.address],
        "clusterDomain": "cluster.local",
        "resolvConf": str(bed.root / "resolv.conf"),
        "podLogsDir": str(bed.folder("pods")),
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 8,
    }, indent=1))
    return path


def cgroups(bed):
    """The machine's own paths of the groups that the node makes: left behind when its processes end."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers:
            yield f"/sys/fs/cgroup/{controllers.removeprefix('name=')}{group.rstrip('/')}/{bed.node}"


def remove_leftovers(bed):
    """What a node leaves on the machine when its processes are gone: empty groups, and the bridge."""
    record = bed.root / "cgroups"
    if record.exists():
        for group in record.read_text().split():
            wait(lambda: remove_tree(group), 5)
        record.unlink()
    quiet("ip", "link", "delete", bed.bridge)


def remove_tree(group):
    """Whether the group and all below it are gone; one with a process still ending in it is not."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True
