"""etcd, the API server, the controller manager and the scheduler, with RBAC on and nothing anonymous."""

from .processes import quiet, run, start, wait_ready
from .tools import program

PROCESSES = ("etcd", "apiserver", "controller-manager", "scheduler")


def start_stores(bed):
    peer = f"http://{bed.loopback}:2380"
    start(bed, "etcd", program("etcd"), "--name", "bed", "--data-dir", bed.folder("etcd"),
          "--listen-client-urls", bed.etcd, "--advertise-client-urls", bed.etcd,
          "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"bed={peer}",
          "--unsafe-no-fsync", "--log-level", "warn")


def start_api(bed, pki):
    start(bed, "apiserver", program("kube-apiserver"), "--etcd-servers", bed.etcd,
          "--bind-address", bed.api_address, "--secure-port", "443", "--advertise-address", bed.api_address,
          "--endpoint-reconciler-type", "none", "--service-cluster-ip-range", bed.services,
          "--tls-cert-file", pki / "apiserver.crt", "--tls-private-key-file", pki / "apiserver.key",
          "--client-ca-file", pki / "ca.crt", "--anonymous-auth=false",
          "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
          "--service-account-issuer", "https://kubernetes.default.svc",
          "--service-account-key-file", pki / "sa.pub", "--service-account-signing-key-file", pki / "sa.key",
          "--kubelet-client-certificate", pki / "admin.crt", "--kubelet-client-key", pki / "admin.key",
          "--kubelet-certificate-authority", pki / "ca.crt", "--kubelet-preferred-address-types", "InternalIP",
          "--allow-privileged", "--profiling=false")


def await_api(bed):
    wait_ready(bed, "apiserver", lambda: quiet(*kubectl(bed), "get", "--raw", "/readyz"))


def start_controllers(bed, pki):
    for name, binary, *more in (
        ("controller-manager", "kube-controller-manager", "--use-service-account-credentials",
         "--service-account-private-key-file", pki / "sa.key", "--root-ca-file", pki / "ca.crt",
         "--cluster-signing-cert-file", pki / "ca.crt", "--cluster-signing-key-file", pki / "ca.key",
         "--node-monitor-grace-period=12s", "--node-monitor-period=1s"),
        ("scheduler", "kube-scheduler"),
    ):
        own = pki / f"{name}.kubeconfig"
        start(bed, name, program(binary), "--kubeconfig", own, "--authentication-kubeconfig", own,
              "--authorization-kubeconfig", own, "--bind-address", bed.loopback, "--leader-elect=false",
              "--kube-api-qps", "200", "--kube-api-burst", "400", *more)


def await_controllers(bed):
    wait_ready(bed, "controller-manager",
               lambda: quiet(*kubectl(bed), "get", "serviceaccount", "default", "--namespace", "default"))


def kubectl(bed):
    """The start of every kubectl command of the bed."""
    return program("kubectl"), "--kubeconfig", bed.kubeconfig


def ask(bed, *arguments):
    """What kubectl prints."""
    return run(*kubectl(bed), *arguments)
