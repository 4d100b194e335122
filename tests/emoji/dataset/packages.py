"""Downloads npm packages into the cache and reads them. A file without the pinned digest is never used."""

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from dataset import pins


class Unavailable(Exception):
    """A download failed; the message says what to do."""


def fetch(packages: Iterable[pins.Package], folder: Path) -> None:
    """Downloads the tarball of each package into `folder`, unless it is there."""
    missing = [p for p in packages if not is_valid(folder / p.file, p)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        run(["npm", "pack", "--loglevel", "error", "--pack-destination", temporary, *(p.spec for p in missing)],
            f"Check that npm is installed and reaches its registry, or put the tarballs into {folder} by hand: "
            + ", ".join(p.file for p in missing))
        for package in missing:
            tarball = Path(temporary, package.file)
            if not is_valid(tarball, package):
                raise Unavailable(f"npm fetched {package.spec}, but its sha512 is not the pinned {package.sha512}. "
                                  "Either the registry serves another file for this version or the download is damaged.")
            tarball.rename(folder / package.file)


def is_valid(tarball: Path, package: pins.Package) -> bool:
    """Whether the file exists and has the pinned digest."""
    if not tarball.is_file():
        return False
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return base64.b64encode(digest).decode() == package.sha512


def run(command: list[str], advice: str) -> None:
    """Runs a command; a failure becomes one message with the command's error output and an advice."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed. {advice}") from None
    if done.returncode != 0:
        output = "\n  ".join(done.stderr.strip().splitlines())
        raise Unavailable(f"`{' '.join(command)}` failed with exit code {done.returncode}:\n  {output}\n{advice}")


def read(tarball: Path, is_selected: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a tarball whose names satisfy a predicate."""
    with tarfile.open(tarball) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and is_selected(m.name)}


def read_json(tarball: Path, name: str) -> dict:
    """A JSON file of a tarball, parsed."""
    with tarfile.open(tarball) as archive:
        return json.load(archive.extractfile(name))
