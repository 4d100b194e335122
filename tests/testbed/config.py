"""The addresses, paths and names of a testbed, all derived from one number. Changes nothing on the machine."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cnclip_build.progress import Failure

HERE = Path(__file__).parent
NETWORKS = range(88, 96)


@dataclass(frozen=True)
class Testbed:
    """One of up to eight testbeds that can run on a machine at once; `network` is 88 to 95."""

    network: int

    @classmethod
    def from_environment(cls):
        """The testbed selected by ``TESTBED_NETWORK`` (or its former name ``BED_NET``), 88 by default."""
        network = os.environ.get("TESTBED_NETWORK") or os.environ.get("BED_NET") or "88"
        if network not in map(str, NETWORKS):
            raise Failure("TESTBED_NETWORK selects the network 10.TESTBED_NETWORK.0.0/16 and must be 88 to 95, "
                          f"found {network!r}.")
        return cls(int(network))

    @property
    def root(self):
        """Everything that the testbed writes. Short, because the path of a Unix socket is limited to 107 bytes."""
        return Path(f"/var/tmp/cnclip-testbed-{self.network}")

    @property
    def node(self):
        """The node's name."""
        return f"testbed-{self.network}"

    @property
    def bridge(self):
        """The network interface that connects the pods."""
        return f"cnclip{self.network}"

    @property
    def subnet(self):
        """The network of the pods."""
        return f"10.{self.network}.0.0/16"

    @property
    def address(self):
        """The machine's address on the pods' bridge, where pods reach S3 and Prometheus."""
        return f"10.{self.network}.0.1"

    @property
    def hardware_address(self):
        """The bridge's MAC address: locally administered, so no vendor's."""
        return f"02:00:0a:{self.network:02x}:00:01"

    @property
    def loopback(self):
        """The address of components that only the testbed itself connects to."""
        return f"127.{self.network}.0.1"

    @property
    def services(self):
        """The network of the Services' cluster IPs."""
        return f"10.{self.network + 8}.0.0/16"

    @property
    def api_address(self):
        """The first address of the Services, which pods find in KUBERNETES_SERVICE_HOST. The API server listens on
        this very address, so pods need no kube-proxy to connect to it."""
        return f"10.{self.network + 8}.0.1"

    @property
    def etcd(self):
        """The base URL of etcd."""
        return f"http://{self.loopback}:2379"

    @property
    def s3(self):
        """The base URL of the S3 server."""
        return f"http://{self.address}:7070"

    @property
    def prometheus(self):
        """The base URL of Prometheus."""
        return f"http://{self.address}:19090"

    @property
    def kubeconfig(self):
        """The administrator's kubeconfig."""
        return self.root / "pki/admin.kubeconfig"

    @property
    def containerd(self):
        """containerd's socket."""
        return self.root / "run/containerd.sock"

    @property
    def connection_file(self):
        """The JSON file from which tests and the demo read how to connect to everything."""
        return self.root / "testbed.json"

    def folder(self, name):
        """A folder of the testbed, created if it does not exist."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def read_connection(self):
        """The content of the connection file of a running testbed."""
        if not self.connection_file.exists():
            raise Failure(f"no testbed is running at {self.root}. Start one with `make cluster`.")
        return json.loads(self.connection_file.read_text())
