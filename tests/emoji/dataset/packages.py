"""Brings published packages into the cache. Never hands out a file whose digest is not the pinned one."""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from dataset import pins


class Unavailable(Exception):
    """Something could not be downloaded; the message tells the user what to do."""


def fetch(packages: Iterable[pins.Package], folder: Path) -> None:
    """Puts the tarball of each package into `folder`; downloads only those that are not there yet."""
    missing = [p for p in packages if not intact(folder / p.file, p)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        run(["npm", "pack", "--loglevel", "error", "--pack-destination", aside, *(p.spec for p in missing)],
            f"Check that npm is installed and reaches its registry, or put the tarballs into {folder} by hand: "
            + ", ".join(p.file for p in missing))
        for package in missing:
            tarball = Path(aside, package.file)
            if not intact(tarball, package):
                raise Unavailable(f"npm fetched {package.spec}, but its sha512 is not the pinned {package.sha512}. "
                                  "Either the registry serves another file under this version or the download broke.")
            tarball.rename(folder / package.file)


def intact(tarball: Path, package: pins.Package) -> bool:
    """Whether the file is there and has the pinned digest."""
    if not tarball.is_file():
        return False
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return base64.b64encode(digest).decode() == package.sha512


def fetch_vocabulary(target: Path) -> None:
    """Writes the Chinese BERT vocabulary to `target`, which is either whole or not there."""
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == pins.VOCABULARY_SHA256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary", ":all:", "--dest", aside, pins.VOCABULARY_WHEEL],
            f"Check that pip reaches PyPI, or put the file with sha256 {pins.VOCABULARY_SHA256} at {target} by hand.")
        wheel, = Path(aside).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            text = archive.read(pins.VOCABULARY_MEMBER)
        found = hashlib.sha256(text).hexdigest()
        if found != pins.VOCABULARY_SHA256:
            raise Unavailable(f"{pins.VOCABULARY_MEMBER} in {pins.VOCABULARY_WHEEL} has sha256 {found}, "
                              f"expected {pins.VOCABULARY_SHA256}: the package on PyPI is not the one known here.")
        whole = Path(aside, target.name)
        whole.write_bytes(text)
        whole.rename(target)


def run(command: list[str], advice: str) -> None:
    """Runs a package client; its failure becomes one message with the client's own words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed. {advice}") from None
    if done.returncode != 0:
        words = "\n  ".join(done.stderr.strip().splitlines())
        raise Unavailable(f"`{' '.join(command)}` failed with exit code {done.returncode}:\n  {words}\n{advice}")


def read(tarball: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a tarball whose names are wanted."""
    with tarfile.open(tarball) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and wanted(m.name)}


def read_json(tarball: Path, name: str) -> dict:
    """One JSON file of a tarball."""
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile(name))
