"""Builds the project's two images from its release binaries, as the Dockerfile does, but without any registry."""

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


def pack(name, binary, data):
    """One program with its data and the libraries it is linked to, run by a user without rights."""
    image = Image([f"/usr/local/bin/{binary.name}"], user=f"{NOBODY}:{NOBODY}")
    image.file(f"/usr/local/bin/{binary.name}", binary.read_bytes(), 0o755)
    for path, content in data.items():
        image.file(path, content)
    for library in libraries(binary):
        image.file(library, Path(library).read_bytes(), 0o755)
    if CERTIFICATES.exists():
        image.file(CERTIFICATES.as_posix(), CERTIFICATES.read_bytes())
    image.file("/etc/passwd", f"nonroot:x:{NOBODY}:{NOBODY}::/:/sbin/nologin\n".encode())
    full_name = f"cnclip.local/{name}:{image.digest()[:12]}"
    image.write(OUT / f"{name}.tar", full_name)
    return full_name


def libraries(binary):
    """The paths at which the program's loader looks for its shared libraries, and the loader."""
    return sorted(set(re.findall(r"(/\S+) \(0x", run("ldd", binary))))
