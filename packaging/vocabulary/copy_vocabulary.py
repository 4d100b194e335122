"""Copies the vocabulary out of the installed cn-clip package; see ``fetch``, which runs it."""

import hashlib
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

VOCABULARY = Path(sysconfig.get_path("platlib"), "cn_clip/clip/vocab.txt")
SHA256 = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"
EX_SOFTWARE = 70  # sysexits.h


def main(target):
    """Writes the vocabulary to `target` and returns the exit code."""
    content = VOCABULARY.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    # pip checks the wheel's digest on installation only. This also detects a damaged cache.
    if found != SHA256:
        print(f"error: {VOCABULARY} has sha256 {found}, expected {SHA256}. Delete {sys.prefix} and run this again.",
              file=sys.stderr)
        return EX_SOFTWARE
    write_atomically(target, content)
    return 0


def write_atomically(target, content):
    """Writes next to the target and renames, so that no reader sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
