"""Where a bed is: its addresses, its folder and its names, all from one number; never touches the machine."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from .steps import Failure

HERE = Path(__file__).parent
CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = Path(os.environ.get("CNCLIP_CACHE") or CACHES / "cnclip")


@dataclass(frozen=True)
class Bed:
    """One bed of the up to eight that fit side by side on a machine; `net` is 88 to 95."""

    net: int

    @classmethod
    def from_environment(cls):
        """The bed that ``BED_NET`` names, 88 unless told."""
        net = os.environ.get("BED_NET", "88")
        if net not in map(str, range(88, 96)):
            raise Failure(f"BED_NET picks the network 10.BED_NET.0.0/16 and must be 88 to 95, found {net!r}.")
        return cls(int(net))

    @property
    def root(self):
        """Everything the bed writes. Short, because socket paths end at 108 bytes."""
        return Path(f"/var/tmp/cnclip-bed-{self.net}")

    @property
    def node(self):
        return f"bed-{self.net}"

    @property
    def bridge(self):
        return f"cnclip{self.net}"

    @property
    def subnet(self):
        return f"10.{self.net}.0.0/16"

    @property
    def address(self):
        """The machine's address on the pods' bridge: what pods can reach."""
        return f"10.{self.net}.0.1"

    @property
    def hardware_address(self):
        """The bridge's own: one that no vendor gives out."""
        return f"02:00:0a:{self.net:02x}:00:01"

    @property
    def loopback(self):
        """The address of what only the bed itself talks to."""
        return f"127.{self.net}.0.1"

    @property
    def services(self):
        return f"10.{self.net + 8}.0.0/16"

    @property
    def api_address(self):
        """The first address of the services, which pods find in KUBERNETES_SERVICE_HOST. The API server
        listens right there, so pods need no kube-proxy to talk to it."""
        return f"10.{self.net + 8}.0.1"

    @property
    def etcd(self):
        return f"http://{self.loopback}:2379"

    @property
    def s3(self):
        return f"http://{self.address}:7070"

    @property
    def prometheus(self):
        return f"http://{self.address}:19090"

    @property
    def kubeconfig(self):
        return self.root / "pki/admin.kubeconfig"

    @property
    def containerd(self):
        return self.root / "run/containerd.sock"

    @property
    def facts(self):
        """The JSON file that tells the tests and the demo how to reach everything."""
        return self.root / "bed.json"

    def folder(self, name):
        """A folder of the bed, made if missing."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def read_facts(self):
        if not self.facts.exists():
            raise Failure(f"no bed is up at {self.root}. Bring one up with `python3 -m bed up`.")
        return json.loads(self.facts.read_text())
