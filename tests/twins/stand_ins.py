"""Empty libraries in place of CUDA's, so that PyPI's PyTorch starts without the 3 GB that a CPU never calls.

PyPI's wheel of PyTorch names NVIDIA's libraries in its own: the linker wants files of those names and symbols, whatever
the machine. They are read off the wheel and compiled from C, a function a symbol: counting devices answers "none", and
what nothing but a device could want does nothing.
"""

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

OF_NVIDIA = re.compile(r"lib(cu|nccl|nv)\w*\.so")
# Symbols of libraries that give theirs no version.
UNVERSIONED = re.compile(r"(cu|nccl|nv|__cu)")
NO_DEVICE = 100


def main(folder):
    libraries = sorted(folder.glob("*.so*"))
    needed, versions, symbols = set(), defaultdict(set), defaultdict(set)
    for library in libraries:
        needed.update(filter(OF_NVIDIA.match, re.findall(r"\(NEEDED\).*\[(.*)\]", tell("readelf", "-dW", library))))
        read_versions(library, versions)
        for line in tell("nm", "-D", "--undefined-only", library).splitlines():
            name, _, version = line.split()[-1].partition("@")
            if version or UNVERSIONED.match(name):
                symbols[version.lstrip("@")].add(name)
    for name in needed:
        # Nobody says which library has a symbol without a version: all without versions have it.
        own = {version: symbols[version] for version in versions[name] or {""}}
        compile_library(folder / name, own)


def read_versions(library, versions):
    """Adds the names of the versions that a library asks others for, under the others' names."""
    of = None
    for line in tell("readelf", "-VW", library).splitlines():
        if file := re.search(r"File: (\S+)", line):
            of = file[1]
        elif (name := re.search(r"Name: (\S+)", line)) and of:
            versions[of].add(name[1])


def compile_library(path, symbols):
    """Compiles a library of functions, by the version that they have."""
    names = sorted(set().union(*symbols.values()))
    nodes = [f"{version} {{ global: {''.join(f'{name};' for name in sorted(own))} }};" for version, own in symbols.items()]
    with tempfile.TemporaryDirectory() as aside:
        code, script = Path(aside, "code.c"), Path(aside, "script")
        code.write_text("".join(f"long {name}(void) {{ return {answer(name)}; }}\n" for name in names))
        script.write_text("\n".join(nodes))
        version = [f"-Wl,--version-script={script}"] if any(symbols) else []
        tell("cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", *version, "-o", path, code)


def answer(name):
    if name.endswith("String"):
        return '(long)"a stand-in for CUDA"'
    return NO_DEVICE if name == "cudaGetDeviceCount" else 0


def tell(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
