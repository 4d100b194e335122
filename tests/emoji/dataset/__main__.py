"""The command line: builds into the cache, copies to where the user asked. Explains failures in words."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from dataset import build, packages, tell

UNAVAILABLE, SOFTWARE, CANNOT_CREATE = 69, 70, 73  # sysexits.h


class Occupied(Exception):
    """The folder asked for holds something else."""


def main() -> int:
    """Does what the arguments ask; returns the exit code."""
    parser = argparse.ArgumentParser(prog="build", description="Builds the emoji data set. See README.md.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to fill; an older build there is replaced")
    parser.add_argument("--vocabulary", action="store_true", help="only the vocabulary; OUT is a file")
    arguments = parser.parse_args()
    cache = Path(os.environ["CNCLIP_CACHE"])
    try:
        (place_vocabulary if arguments.vocabulary else place)(arguments.out, cache)
    except packages.Unavailable as error:
        return fail(error, UNAVAILABLE)
    except build.Unfaithful as error:
        return fail(error, SOFTWARE)
    except Occupied as error:
        return fail(error, CANNOT_CREATE)
    return 0


def fail(error: Exception, code: int) -> int:
    """Tells the error."""
    tell.line(str(error))
    return code


def place_vocabulary(out: Path, cache: Path) -> None:
    """Puts the vocabulary at `out`."""
    packages.fetch_vocabulary(cache / "vocab.txt")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(cache / "vocab.txt", out)


def place(out: Path, cache: Path) -> None:
    """Makes `out` the data set, whole or not at all."""
    if recipe_of(out) == build.recipe():
        tell.line(f"{out} is up to date")
        return
    if occupied(out):
        raise Occupied(f"{out} is there and is no emoji data set; name an empty or a new folder.")
    with tell.timed(f"{out} in all"):
        whole = build.cached(cache)
        with build.aside(out) as folder:
            shutil.copytree(whole, folder, dirs_exist_ok=True)
            if out.exists():
                shutil.rmtree(out)


def occupied(out: Path) -> bool:
    """Whether something is at `out` that is neither an older build nor an empty folder."""
    return out.exists() and recipe_of(out) is None and not (out.is_dir() and not any(out.iterdir()))


def recipe_of(folder: Path) -> str | None:
    """What the data set in a folder was made from; None if there is none."""
    try:
        return json.loads((folder / "info.json").read_text())["recipe"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
