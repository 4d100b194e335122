"""Where the demo runs: on a bed of its own, or on the cluster of the current kubeconfig."""

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass

from bed import cluster, images, tools
from bed.place import Bed
from bed.steps import Failure


@dataclass(frozen=True)
class Place:
    """A cluster, an object store that its pods reach, `root` in it for this demo alone, and the images."""

    kubectl: tuple
    helm: tuple
    s3: dict
    root: str
    images: dict
    borrowed: bool

    def store_environment(self):
        """What a program needs to use the store, by the names that it knows."""
        return {"AWS_ENDPOINT": self.s3["endpoint"], "AWS_REGION": self.s3["region"], "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": self.s3["accessKeyId"], "AWS_SECRET_ACCESS_KEY": self.s3["secretAccessKey"]}


class OwnBed:
    """A fresh bed for this demo."""

    def __init__(self, keep):
        self.keep = keep
        self.bed = Bed.from_environment()

    def prepare(self):
        """Gets everything there is to get before a bed can be up."""
        cluster.refuse_without_root()
        tools.get()
        images.build()

    @contextmanager
    def open(self):
        """The bed while the work inside goes on."""
        with cluster.fresh(self.bed, self.keep):
            facts = self.bed.read_facts()
            access = ("--kubeconfig", facts["kubeconfig"])
            yield Place((facts["kubectl"], *access), (facts["helm"], *access), facts["s3"],
                        f"s3://{facts['s3']['bucket']}", facts["images"], borrowed=False)

    def how_to_look(self):
        """What to type to look around in a bed that was kept."""
        return (f"export KUBECONFIG={self.bed.kubeconfig} PATH={tools.program('kubectl').parent}:$PATH",
                "make clean-bed    # when done")


class CurrentCluster:
    """The cluster of the current kubeconfig, with images and a store that the user has."""

    NEEDED = {
        "IMAGE_REGISTRY": "where `make push` put the images, such as registry.example.com/cnclip",
        "S3_ENDPOINT": "the base address of an S3 store that the pods reach",
        "S3_BUCKET": "a bucket in it",
        "AWS_ACCESS_KEY_ID": "who may write the bucket",
        "AWS_SECRET_ACCESS_KEY": "the proof",
    }

    def prepare(self):
        """Refuses to begin where something is missing."""
        missing = [f"  {name:22} {what}" for name, what in self.NEEDED.items() if not os.environ.get(name)]
        missing += [f"  {name:22} in your PATH" for name in ("kubectl", "helm") if not shutil.which(name)]
        if missing:
            raise Failure("CLUSTER=current needs, beside a kubeconfig:\n" + "\n".join(missing))
        images.compile_release()

    @contextmanager
    def open(self):
        """The cluster as it is: nothing to bring up, nothing to take down."""
        names = {name: f"{os.environ['IMAGE_REGISTRY']}/{name}:{os.environ['VERSION']}" for name in images.PROGRAMS}
        s3 = {"endpoint": os.environ["S3_ENDPOINT"], "region": os.environ.get("AWS_REGION", "us-east-1"),
              "accessKeyId": os.environ["AWS_ACCESS_KEY_ID"], "secretAccessKey": os.environ["AWS_SECRET_ACCESS_KEY"]}
        root = f"s3://{os.environ['S3_BUCKET']}/cnclip-demo/{time.strftime('%Y%m%d-%H%M%S')}"
        yield Place(("kubectl",), ("helm",), s3, root, names, borrowed=True)

    def how_to_look(self):
        """What to type to look around, and to remove what was kept."""
        return ("helm uninstall cnclip --namespace cnclip-system", "kubectl delete namespace cnclip-system cnclip-demo")


def chosen():
    """The place that CLUSTER names."""
    match os.environ.get("CLUSTER", ""):
        case "":
            return OwnBed(bool(os.environ.get("KEEP")))
        case "current":
            return CurrentCluster()
        case other:
            raise Failure(f"CLUSTER must be empty (a cluster of its own) or current, found {other!r}.")
