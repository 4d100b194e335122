"""Builds the project's images from its release binaries, as the Dockerfile does, but without a registry."""

import json
import os
import re
from pathlib import Path

from .commands import run, show
from .oci import Image
from .paths import PROJECT, PYTHON, cargo_target
from .progress import step

OUT = PROJECT / "target/images"
PROGRAMS = {"trainer": "cnclip", "operator": "cnclip-operator"}
"""The program of each image."""

CA_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NONROOT = "65532"
"""The user and group ID that distroless images call nonroot."""

VOCABULARY = "/usr/share/cnclip/vocab.txt"
CUDA_LIBRARIES = {"libcublasLt.so.13": "cu13/lib/libcublasLt.so.13", "libnccl.so": "nccl/lib/libnccl.so.2"}
"""The libraries of the image for GPUs: the name that the program opens, and the file in NVIDIA's PyPI packages."""

CUDA_LIBRARY_FOLDER = "/usr/local/lib/nvidia"
CUDA_ENVIRONMENT = (
    # GKE and other managed nodes mount the driver into /usr/local/nvidia.
    f"LD_LIBRARY_PATH={CUDA_LIBRARY_FOLDER}:/usr/local/nvidia/lib64",
    # From these two the NVIDIA container runtime takes which devices and driver libraries to mount.
    "NVIDIA_VISIBLE_DEVICES=all",
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
)


def build():
    """Compiles and packs the images for CPUs; returns their full names, also written to ``images.json``."""
    with step("images", "compiling"):
        binaries = compile_release()
    data = {"trainer": {VOCABULARY: fetch_vocabulary().read_bytes()}, "operator": {}}
    OUT.mkdir(parents=True, exist_ok=True)
    with step("images", f"packing {' and '.join(PROGRAMS)}"):
        names = {name: pack(name, binaries / program, data[name]) for name, program in PROGRAMS.items()}
    (OUT / "images.json").write_text(json.dumps(names, indent=1))
    return names


def build_cuda():
    """Compiles the trainer for GPUs and packs it with NVIDIA's libraries (1.3 GB); returns the image's full name."""
    with step("images", "compiling for GPUs"):
        binary = compile_cuda()
    OUT.mkdir(parents=True, exist_ok=True)
    with step("images", "packing trainer-cuda"):
        packages = Path(run(PYTHON, PROJECT / "packaging/cuda/libraries", "-c",
                            "import sysconfig; print(sysconfig.get_path('platlib'))").strip(), "nvidia")
        data = {f"{CUDA_LIBRARY_FOLDER}/{name}": (packages / file).read_bytes()
                for name, file in CUDA_LIBRARIES.items()}
        linked = [packages / file for file in CUDA_LIBRARIES.values()]
        name = pack("trainer-cuda", binary, {VOCABULARY: fetch_vocabulary().read_bytes(), **data}, linked,
                    CUDA_ENVIRONMENT)
    print(f"images: {name}", flush=True)
    return name


def compile_release():
    """Compiles the trainer and the operator for CPUs; returns the folder of the binaries."""
    target = cargo_target()
    packages = [argument for name in PROGRAMS for argument in ("--package", f"cnclip-{name}")]
    show("cargo", "build", "--release", "--quiet", "--locked", *packages, cwd=PROJECT)
    return target / "release"


def compile_cuda():
    """Compiles the trainer for GPUs, which needs no GPU; returns the path of the binary."""
    target = cargo_target()
    show("cargo", "build", "--release", "--quiet", "--locked", "--package", "cnclip-trainer", "--bin", "cnclip",
         "--features", "cuda", cwd=PROJECT, env=cuda_build_environment())
    return target / "release/cnclip"


def cuda_build_environment():
    """The environment of a cargo build for GPUs: CUDA_HOME as given, or else the pinned toolkit."""
    home = os.environ.get("CUDA_HOME") or run(PROJECT / "packaging/cuda/toolkit").strip()
    return {**os.environ, "CUDA_HOME": home}


def fetch_vocabulary():
    """Downloads the vocabulary of the published models on first use; returns its path."""
    path = OUT / "vocab.txt"
    if not path.exists():
        run(PROJECT / "packaging/vocabulary/fetch", path)
    return path


def pack(name, binary, data, linked_data=(), environment=()):
    """Writes an image with one program, run by a user without privileges; returns its full name.

    `data` maps paths in the image to contents. The shared libraries that the program and the files `linked_data` are
    linked to are added from this machine, at the paths where the dynamic loader found them here.
    """
    image = Image([f"/usr/local/bin/{binary.name}"], f"{NONROOT}:{NONROOT}", environment)
    image.add_file(f"/usr/local/bin/{binary.name}", binary.read_bytes(), 0o755)
    for path, content in data.items():
        image.add_file(path, content)
    for library in sorted(set().union(*map(shared_libraries, (binary, *linked_data)))):
        image.add_file(library, Path(library).read_bytes(), 0o755)
    if CA_CERTIFICATES.exists():
        image.add_file(CA_CERTIFICATES.as_posix(), CA_CERTIFICATES.read_bytes())
    image.add_file("/etc/passwd", f"nonroot:x:{NONROOT}:{NONROOT}::/:/sbin/nologin\n".encode())
    # A tag made of the content: a node that has the name has the content, and a changed image is never mistaken.
    full_name = f"cnclip.local/{name}:{image.digest()[:12]}"
    image.write(OUT / f"{name}.tar", full_name)
    return full_name


def shared_libraries(binary):
    """The paths of the shared libraries that a binary is linked to, the dynamic loader included."""
    return set(re.findall(r"(/\S+) \(0x", run("ldd", binary)))
