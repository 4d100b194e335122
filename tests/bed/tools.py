"""Gets the programs a bed is made of: Debian packages, and Go programs built once and kept in the user's cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .place import CACHE, HERE
from .processes import run
from .steps import Failure, step

PACKAGES = {
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "cc": "build-essential",
    "cmake": "cmake",
    "containerd": "containerd",
    "ip": "iproute2",
    "nasm": "nasm",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "runc": "runc",
}
"""What must be found (a program or a file) and the Debian package that has it."""

KUBERNETES = "v1.36.3"


@dataclass(frozen=True)
class Recipe:
    """Go programs built together: `command` is go's, with OUT for the folder of the result."""

    name: str
    programs: tuple
    command: tuple
    ldflags: str = "-s -w"

    @property
    def module(self):
        """The folder with the pinned versions; missing where the command itself names the version."""
        return HERE / "go" / self.name

    @property
    def folder(self):
        """Where the programs are kept: named by everything that decides what they are."""
        digest = hashlib.sha256(repr(self).encode())
        digest.update(run("go", "version").encode())
        for file in ("go.mod", "go.sum", "main.go"):
            if (self.module / file).exists():
                digest.update((self.module / file).read_bytes())
        return CACHE / "bin" / f"{self.name}-{digest.hexdigest()[:16]}"


def kubernetes_version():
    """Linker flags that let the programs say which Kubernetes they are."""
    values = {"gitVersion": KUBERNETES, "gitMajor": "1", "gitMinor": KUBERNETES.split(".")[1],
              "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


RECIPES = (
    Recipe("kubernetes", ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"),
           ("build", "-o", "OUT/", "tool"), f"-s -w {kubernetes_version()}"),
    Recipe("etcd", ("etcd",), ("build", "-o", "OUT/etcd", "go.etcd.io/etcd/server/v3")),
    Recipe("coredns", ("coredns",), ("build", "-o", "OUT/coredns", ".")),
    Recipe("versitygw", ("versitygw",), ("install", "github.com/versity/versitygw/cmd/versitygw@v1.8.0")),
    Recipe("helm", ("helm",), ("install", "helm.sh/helm/v4/cmd/helm@v4.3.1")),
)


def program(name):
    """The path of a Go program of the bed."""
    recipe = next(recipe for recipe in RECIPES if name in recipe.programs)
    return recipe.folder / name


def get():
    """Installs and builds whatever is missing."""
    get_packages()
    for recipe in RECIPES:
        build(recipe)


def get_packages(packages=PACKAGES):
    """Installs the Debian packages of what cannot be found."""
    there = (thing for thing in packages if shutil.which(thing) or Path(thing).exists())
    missing = sorted(set(packages.values()) - {packages[thing] for thing in there})
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Failure(f"Debian packages are missing: {' '.join(missing)}. Install them, or run as root on Debian.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step("bed", f"installing {' '.join(missing)}"):
        run("apt-get", "update", "-qq", env=environment)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def build(recipe):
    """Builds aside and moves the whole folder into place, so that no half-built one is ever used."""
    folder = recipe.folder
    with locked(CACHE / "bin" / f".{recipe.name}.lock"):
        if folder.exists():
            return
        aside = folder.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with step("bed", f"building {' '.join(recipe.programs)} (once)"):
            go(recipe, aside)
        aside.rename(folder)


def go(recipe, out):
    verb, *rest = (part.replace("OUT", str(out)) for part in recipe.command)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(out), "GOFLAGS": "-buildvcs=false"}
    done = subprocess.run(["go", verb, "-trimpath", "-ldflags", recipe.ldflags, *rest], env=environment,
                          cwd=recipe.module if recipe.module.exists() else HERE, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"go could not build {recipe.name}:\n{done.stderr[-4000:]}")


@contextmanager
def locked(path):
    """Only one process at a time is inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
