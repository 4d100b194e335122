"""The command line: builds the data set into the cache and copies it to the folder that the user names."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from dataset import build, packages, progress

EX_UNAVAILABLE, EX_SOFTWARE, EX_CANTCREAT = 69, 70, 73  # sysexits.h


class OutputExists(Exception):
    """The output folder contains something else."""


def main() -> int:
    """Parses the command line and builds the data set; returns the exit code."""
    parser = argparse.ArgumentParser(prog="build", description="Builds the emoji data set. See README.md.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the output folder; an older data set there is replaced")
    arguments = parser.parse_args()
    try:
        write_data_set(arguments.out, Path(os.environ["CNCLIP_CACHE"]))
    except packages.Unavailable as error:
        return fail(error, EX_UNAVAILABLE)
    except build.UnexpectedResult as error:
        return fail(error, EX_SOFTWARE)
    except OutputExists as error:
        return fail(error, EX_CANTCREAT)
    return 0


def fail(error: Exception, code: int) -> int:
    """Logs an error; returns the exit code."""
    progress.log(str(error))
    return code


def write_data_set(out: Path, cache: Path) -> None:
    """Makes `out` a complete data set, or leaves it unchanged on failure."""
    if recipe_of(out) == build.recipe():
        progress.log(f"{out} is up to date")
        return
    if contains_other_files(out):
        raise OutputExists(f"{out} exists and is not an emoji data set; name an empty or a new folder.")
    with progress.timed(f"{out} in total"):
        complete = build.cached(cache)
        with build.temporary_folder(out) as folder:
            shutil.copytree(complete, folder, dirs_exist_ok=True)
            if out.exists():
                shutil.rmtree(out)


def contains_other_files(out: Path) -> bool:
    """Whether something exists at `out` that is neither a data set nor an empty folder."""
    return out.exists() and recipe_of(out) is None and not (out.is_dir() and not any(out.iterdir()))


def recipe_of(folder: Path) -> str | None:
    """The recipe that the data set in a folder was built by; None if there is no data set."""
    try:
        return json.loads((folder / "info.json").read_text())["recipe"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
