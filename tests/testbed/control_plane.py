"""etcd, the API server, the controller manager and the scheduler, with RBAC and without anonymous access."""

from cnclip_build.commands import succeeds

from .processes import start, wait_until_ready
from .tools import program

PROCESSES = ("etcd", "apiserver", "controller-manager", "scheduler")


def start_etcd(testbed):
    """Starts a single-member etcd. A testbed is never recovered after a crash, so writes are not synced to disk."""
    peer = f"http://{testbed.loopback}:2380"
    start(testbed, "etcd", program("etcd"), "--name", "testbed", "--data-dir", testbed.folder("etcd"),
          "--listen-client-urls", testbed.etcd, "--advertise-client-urls", testbed.etcd,
          "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"testbed={peer}",
          "--unsafe-no-fsync", "--log-level", "warn")


def start_api_server(testbed, pki):
    """Starts the API server on the first address of the Services' network."""
    start(testbed, "apiserver", program("kube-apiserver"), "--etcd-servers", testbed.etcd,
          "--bind-address", testbed.api_address, "--secure-port", "443", "--advertise-address", testbed.api_address,
          # The server listens on the cluster IP of the Service "kubernetes" itself, so that Service needs no endpoints.
          "--endpoint-reconciler-type", "none", "--service-cluster-ip-range", testbed.services,
          "--tls-cert-file", pki / "apiserver.crt", "--tls-private-key-file", pki / "apiserver.key",
          "--client-ca-file", pki / "ca.crt", "--anonymous-auth=false",
          "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
          "--service-account-issuer", "https://kubernetes.default.svc",
          "--service-account-key-file", pki / "sa.pub", "--service-account-signing-key-file", pki / "sa.key",
          "--kubelet-client-certificate", pki / "admin.crt", "--kubelet-client-key", pki / "admin.key",
          "--kubelet-certificate-authority", pki / "ca.crt", "--kubelet-preferred-address-types", "InternalIP",
          "--allow-privileged", "--profiling=false")


def wait_for_api_server(testbed):
    """Waits until the API server answers requests."""
    wait_until_ready(testbed, "apiserver", lambda: succeeds(*kubectl(testbed), "get", "--raw", "/readyz"))


def start_controllers(testbed, pki):
    """Starts the controller manager and the scheduler, each with its own identity."""
    for name, binary, *options in (
        ("controller-manager", "kube-controller-manager", "--use-service-account-credentials",
         "--service-account-private-key-file", pki / "sa.key", "--root-ca-file", pki / "ca.crt",
         "--cluster-signing-cert-file", pki / "ca.crt", "--cluster-signing-key-file", pki / "ca.key",
         # Defaults are 40 s and 5 s; tests that lose a node should not wait that long.
         "--node-monitor-grace-period=12s", "--node-monitor-period=1s"),
        ("scheduler", "kube-scheduler"),
    ):
        kubeconfig = pki / f"{name}.kubeconfig"
        start(testbed, name, program(binary), "--kubeconfig", kubeconfig, "--authentication-kubeconfig", kubeconfig,
              "--authorization-kubeconfig", kubeconfig, "--bind-address", testbed.loopback, "--leader-elect=false",
              "--kube-api-qps", "200", "--kube-api-burst", "400", *options)


def wait_for_controllers(testbed):
    """Waits for the default service account, which the controller manager creates and every pod needs."""
    wait_until_ready(testbed, "controller-manager", lambda: succeeds(
        *kubectl(testbed), "get", "serviceaccount", "default", "--namespace", "default"))


def kubectl(testbed):
    """The start of every kubectl command line of the testbed."""
    return program("kubectl"), "--kubeconfig", testbed.kubeconfig
