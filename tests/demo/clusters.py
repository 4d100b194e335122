"""The clusters that the demo can run on: a testbed of its own, or the cluster of the current kubeconfig."""

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass

from cnclip_build import images
from cnclip_build.progress import Failure
from testbed import cluster, tools
from testbed.config import Testbed


@dataclass(frozen=True)
class Environment:
    """A cluster, an object store that its pods can reach, a prefix `root` in it for this demo, and the images."""

    kubectl: tuple
    helm: tuple
    s3: dict
    root: str
    images: dict
    is_shared: bool
    """Whether the cluster existed before the demo and stays afterwards."""

    def store_variables(self):
        """The environment variables from which the trainer reads how to access the object store."""
        return {"AWS_ENDPOINT": self.s3["endpoint"], "AWS_REGION": self.s3["region"], "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": self.s3["accessKeyId"], "AWS_SECRET_ACCESS_KEY": self.s3["secretAccessKey"]}


class TestbedCluster:
    """A fresh testbed for this demo."""

    def __init__(self, keep):
        self.keep = keep
        self.testbed = Testbed.from_environment()

    def prepare(self):
        """Installs and builds everything that the testbed needs."""
        cluster.require_root()
        tools.install()
        images.build()

    @contextmanager
    def open(self):
        """The running testbed during the enclosed work."""
        with cluster.fresh(self.testbed, self.keep):
            connection = self.testbed.read_connection()
            kubeconfig = ("--kubeconfig", connection["kubeconfig"])
            yield Environment(
                kubectl=(connection["kubectl"], *kubeconfig), helm=(connection["helm"], *kubeconfig),
                s3=connection["s3"], root=f"s3://{connection['s3']['bucket']}", images=connection["images"],
                is_shared=False)

    def usage(self):
        """Commands to use a testbed that was kept, and to remove it."""
        return (f"export KUBECONFIG={self.testbed.kubeconfig} PATH={tools.program('kubectl').parent}:$PATH",
                "make clean-cluster    # when done")


class CurrentCluster:
    """The cluster of the current kubeconfig, with images and an object store that the user provides."""

    VARIABLES = {
        "IMAGE_REGISTRY": "where `make push` pushed the images, such as registry.example.com/cnclip",
        "S3_ENDPOINT": "the base URL of an S3 server that the pods can reach",
        "S3_BUCKET": "a bucket on it",
        "AWS_ACCESS_KEY_ID": "the ID of an access key with write permission for the bucket",
        "AWS_SECRET_ACCESS_KEY": "the secret of that access key",
    }

    def prepare(self):
        """Raises a Failure that lists everything missing."""
        missing = [f"  {name:22} {what}" for name, what in self.VARIABLES.items() if not os.environ.get(name)]
        missing += [f"  {name:22} in PATH" for name in ("kubectl", "helm") if not shutil.which(name)]
        if missing:
            raise Failure("CLUSTER=current needs, besides a kubeconfig:\n" + "\n".join(missing))
        images.compile_release()

    @contextmanager
    def open(self):
        """The cluster as it is: nothing is started or stopped."""
        names = {name: f"{os.environ['IMAGE_REGISTRY']}/{name}:{os.environ['VERSION']}" for name in images.PROGRAMS}
        s3 = {"endpoint": os.environ["S3_ENDPOINT"], "region": os.environ.get("AWS_REGION", "us-east-1"),
              "accessKeyId": os.environ["AWS_ACCESS_KEY_ID"], "secretAccessKey": os.environ["AWS_SECRET_ACCESS_KEY"]}
        # A prefix of its own for each demo, so that no run finds the artifacts of an earlier one.
        root = f"s3://{os.environ['S3_BUCKET']}/cnclip-demo/{time.strftime('%Y%m%d-%H%M%S')}"
        yield Environment(kubectl=("kubectl",), helm=("helm",), s3=s3, root=root, images=names, is_shared=True)

    def usage(self):
        """Commands to remove what was kept."""
        return ("helm uninstall cnclip --namespace cnclip-system", "kubectl delete namespace cnclip-system cnclip-demo")


def selected():
    """The cluster that the environment variable ``CLUSTER`` selects."""
    match os.environ.get("CLUSTER", ""):
        case "":
            return TestbedCluster(bool(os.environ.get("KEEP")))
        case "current":
            return CurrentCluster()
        case other:
            raise Failure(f"CLUSTER must be empty (a testbed is started) or current, found {other!r}.")
