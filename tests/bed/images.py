"""Builds the project's images from its release binaries, as the Dockerfile does, but without any registry."""

import json
import os
import re
from pathlib import Path

from .oci import Image
from .place import CACHE, HERE
from .processes import run, show
from .steps import step

PROJECT = HERE.parent.parent
OUT = PROJECT / "target/images"
PROGRAMS = {"trainer": "cnclip", "operator": "cnclip-operator"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
NOBODY = "65532"
VOCABULARY = "/usr/share/cnclip/vocab.txt"
OF_NVIDIA = {"libcublasLt.so.13": "cu13/lib/libcublasLt.so.13", "libnccl.so": "nccl/lib/libnccl.so.2"}
"""The libraries of the image for GPUs, by the names that the program loads them by, and their files in packages."""
CUDA_LIBRARIES = "/usr/local/lib/nvidia"
CUDA_ENVIRONMENT = (f"LD_LIBRARY_PATH={CUDA_LIBRARIES}:/usr/local/nvidia/lib64", "NVIDIA_VISIBLE_DEVICES=all",
                    "NVIDIA_DRIVER_CAPABILITIES=compute,utility")
"""Where the loader looks besides, the folder of cloud nodes' drivers included, and what the container runtime lends."""


def build():
    """Compiles the programs, packs each and returns the full names; ``images.json`` holds them too."""
    with step("images", "compiling"):
        binaries = compile_release()
    data = {"trainer": {VOCABULARY: vocabulary().read_bytes()}, "operator": {}}
    OUT.mkdir(parents=True, exist_ok=True)
    with step("images", f"packing {' and '.join(PROGRAMS)}"):
        names = {name: pack(name, binaries / program, data[name]) for name, program in PROGRAMS.items()}
    (OUT / "images.json").write_text(json.dumps(names, indent=1))
    return names


def build_cuda():
    """Packs the trainer for GPUs with NVIDIA's libraries, 1.3 GB of them unpacked, and returns the full name."""
    with step("images", "compiling for GPUs"):
        binary = compile_cuda()
    OUT.mkdir(parents=True, exist_ok=True)
    with step("images", "packing trainer-cuda"):
        packages = Path(run(PROJECT / "tests/python", PROJECT / "tests/cuda/libraries", "-c",
                            "import sysconfig; print(sysconfig.get_path('platlib'))").strip(), "nvidia")
        data = {f"{CUDA_LIBRARIES}/{name}": (packages / file).read_bytes() for name, file in OF_NVIDIA.items()}
        needed = [packages / file for file in OF_NVIDIA.values()]
        name = pack("trainer-cuda", binary, {VOCABULARY: vocabulary().read_bytes(), **data}, needed, CUDA_ENVIRONMENT)
    print(f"images: {name}", flush=True)
    return name


def compile_cuda():
    """The trainer for GPUs; also for machines that have none."""
    target = Path(os.environ.setdefault("CARGO_TARGET_DIR", str(CACHE / "target")))
    show("cargo", "build", "--release", "--quiet", "--locked", "--package", "cnclip-trainer", "--bin", "cnclip",
         "--features", "cuda", cwd=PROJECT, env=cuda_environment())
    return PROJECT / target / "release/cnclip"


def cuda_environment():
    """That of a build for GPUs: NVIDIA's compiler is the one in CUDA_HOME, or the pinned one."""
    home = os.environ.get("CUDA_HOME") or run(PROJECT / "tests/cuda/toolkit").strip()
    return {**os.environ, "CUDA_HOME": home}


def compile_release():
    target = Path(os.environ.setdefault("CARGO_TARGET_DIR", str(CACHE / "target")))
    packages = [argument for name in PROGRAMS for argument in ("--package", f"cnclip-{name}")]
    show("cargo", "build", "--release", "--quiet", "--locked", *packages, cwd=PROJECT)
    return PROJECT / target / "release"


def vocabulary():
    """The path of the vocabulary of the published models, fetched once."""
    path = OUT / "vocab.txt"
    if not path.exists():
        run(PROJECT / "tests/emoji/build", "--vocabulary", path)
    return path


def pack(name, binary, data, loaded=(), environment=()):
    """One program with its data and the libraries it is linked to, run by a user without rights; `loaded` are
    libraries among the data."""
    image = Image([f"/usr/local/bin/{binary.name}"], f"{NOBODY}:{NOBODY}", environment)
    image.file(f"/usr/local/bin/{binary.name}", binary.read_bytes(), 0o755)
    for path, content in data.items():
        image.file(path, content)
    for library in sorted(set().union(*map(libraries, (binary, *loaded)))):
        image.file(library, Path(library).read_bytes(), 0o755)
    if CERTIFICATES.exists():
        image.file(CERTIFICATES.as_posix(), CERTIFICATES.read_bytes())
    image.file("/etc/passwd", f"nonroot:x:{NOBODY}:{NOBODY}::/:/sbin/nologin\n".encode())
    full_name = f"cnclip.local/{name}:{image.digest()[:12]}"
    image.write(OUT / f"{name}.tar", full_name)
    return full_name


def libraries(binary):
    """The paths at which the program's loader looks for its shared libraries, and the loader."""
    return set(re.findall(r"(/\S+) \(0x", run("ldd", binary)))
