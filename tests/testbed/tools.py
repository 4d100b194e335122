"""Installs the programs of a testbed: Debian packages, and Go programs built once and kept in the user's cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cnclip_build.commands import run
from cnclip_build.paths import CACHE
from cnclip_build.progress import Failure, step

from .config import HERE

BUILD_PACKAGES = {"cc": "build-essential", "cmake": "cmake", "nasm": "nasm"}
"""What compiling needs: a program or file, and the Debian package that contains it."""

CLUSTER_PACKAGES = {
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "containerd": "containerd",
    "ip": "iproute2",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "runc": "runc",
}
"""What a testbed needs besides."""

KUBERNETES = "v1.36.3"


@dataclass(frozen=True)
class Recipe:
    """Go programs that are built together by one go `command`, in which OUT stands for the output folder."""

    name: str
    programs: tuple
    command: tuple
    ldflags: str = "-s -w"

    @property
    def module(self):
        """The folder of the Go module that pins the versions; absent if the command itself names the version."""
        return HERE / "go" / self.name

    @property
    def folder(self):
        """Where the programs are kept. The name contains a digest of all inputs, so that a changed pin builds anew."""
        digest = hashlib.sha256(repr(self).encode())
        digest.update(run("go", "version").encode())
        for file in ("go.mod", "go.sum", "main.go"):
            if (self.module / file).exists():
                digest.update((self.module / file).read_bytes())
        return CACHE / "bin" / f"{self.name}-{digest.hexdigest()[:16]}"


def kubernetes_version():
    """Linker flags that set the version which the Kubernetes programs report."""
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
    """The path of one of the testbed's Go programs."""
    recipe = next(recipe for recipe in RECIPES if name in recipe.programs)
    return recipe.folder / name


def install():
    """Installs and builds everything that is missing."""
    install_packages(BUILD_PACKAGES | CLUSTER_PACKAGES)
    for recipe in RECIPES:
        build(recipe)


def install_packages(packages):
    """Installs the Debian packages of programs and files that do not exist."""
    missing = sorted({package for name, package in packages.items()
                      if not shutil.which(name) and not Path(name).exists()})
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise Failure(f"Debian packages are missing: {' '.join(missing)}. Install them, or run as root on Debian.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step("testbed", f"installing {' '.join(missing)}"):
        run("apt-get", "update", "-qq", env=environment)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def build(recipe):
    """Builds the programs in a temporary folder that is renamed when complete, so that no partial build is used."""
    folder = recipe.folder
    with locked(CACHE / "bin" / f".{recipe.name}.lock"):
        if folder.exists():
            return
        temporary = folder.with_suffix(".new")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with step("testbed", f"building {' '.join(recipe.programs)} (once)"):
            run_go(recipe, temporary)
        temporary.rename(folder)


def run_go(recipe, out):
    """Runs a recipe's go command with `out` as its output folder."""
    verb, *rest = (part.replace("OUT", str(out)) for part in recipe.command)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(out), "GOFLAGS": "-buildvcs=false"}
    done = subprocess.run(["go", verb, "-trimpath", "-ldflags", recipe.ldflags, *rest], env=environment,
                          cwd=recipe.module if recipe.module.exists() else HERE, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"go failed to build {recipe.name}:\n{done.stderr[-4000:]}")


@contextmanager
def locked(path):
    """Holds an exclusive lock between processes during the enclosed work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
