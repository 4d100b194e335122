"""Gets the vocabulary of the published models out of the reference's Python package, once."""

import hashlib
import sys
import tempfile
import zipfile
from pathlib import Path

from .place import CACHE
from .processes import run
from .steps import Failure, step

PACKAGE = "cn_clip==1.6.0"
SHA256 = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"


def get():
    """The path of the vocabulary."""
    path = CACHE / "vocab.txt"
    if path.exists() and digest(path.read_bytes()) == SHA256:
        return path
    with step("images", f"fetching the vocabulary from {PACKAGE}"):
        content = download()
    if digest(content) != SHA256:
        raise Failure(f"the vocabulary of {PACKAGE} has the sha256 {digest(content)}, expected {SHA256}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def download():
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read("cn_clip/clip/vocab.txt")


def digest(content):
    return hashlib.sha256(content).hexdigest()
