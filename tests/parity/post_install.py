"""Stubs of the CUDA libraries, so that PyPI's PyTorch starts without 3 GB that computations on the CPU never call.

The libraries in PyPI's wheel of PyTorch are linked to NVIDIA's, so the dynamic loader requires files with those names
and symbols on every machine. Names and symbols are read from the wheel and compiled from C, one function for each
symbol. The function that counts devices returns "no device", so that the others are never called.
"""

import re
import subprocess
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

NVIDIA_LIBRARY = re.compile(r"lib(cu|nccl|nv)\w*\.so")
UNVERSIONED_SYMBOL = re.compile(r"(cu|nccl|nv|__cu)")
CUDA_ERROR_NO_DEVICE = 100


def main(folder):
    """Compiles a stub of every NVIDIA library that the libraries of a folder need."""
    libraries = sorted(folder.glob("*.so*"))
    needed, versions, symbols = set(), defaultdict(set), defaultdict(set)
    for library in libraries:
        needed.update(filter(NVIDIA_LIBRARY.match, re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", library))))
        read_versions(library, versions)
        for line in run("nm", "-D", "--undefined-only", library).splitlines():
            name, _, version = line.split()[-1].partition("@")
            if version or UNVERSIONED_SYMBOL.match(name):
                symbols[version.lstrip("@")].add(name)
    for name in needed:
        # ELF does not record which library a symbol without a version comes from: every stub without versions gets all.
        library_symbols = {version: symbols[version] for version in versions[name] or {""}}
        compile_stub(folder / name, library_symbols)


def read_versions(library, versions):
    """Adds the symbol versions that a library needs to `versions`, by the name of the library that provides them."""
    provider = None
    for line in run("readelf", "-VW", library).splitlines():
        if file := re.search(r"File: (\S+)", line):
            provider = file[1]
        elif (name := re.search(r"Name: (\S+)", line)) and provider:
            versions[provider].add(name[1])


def compile_stub(path, symbols):
    """Compiles a library of stub functions; `symbols` maps each version to its names."""
    names = sorted(set().union(*symbols.values()))
    nodes = [f"{version} {{ global: {''.join(f'{name};' for name in sorted(versioned))} }};"
             for version, versioned in symbols.items()]
    with tempfile.TemporaryDirectory() as temporary:
        code, script = Path(temporary, "code.c"), Path(temporary, "script")
        code.write_text("".join(f"long {name}(void) {{ return {return_value(name)}; }}\n" for name in names))
        script.write_text("\n".join(nodes))
        version = [f"-Wl,--version-script={script}"] if any(symbols) else []
        run("cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", *version, "-o", path, code)


def return_value(name):
    """The C expression that a stub returns."""
    if name.endswith("String"):
        return '(long)"CUDA stub"'
    return CUDA_ERROR_NO_DEVICE if name == "cudaGetDeviceCount" else 0


def run(*command):
    """Runs a program; returns its standard output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(Path(sysconfig.get_path("platlib"), "torch/lib"))
