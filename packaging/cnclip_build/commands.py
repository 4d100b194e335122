"""Runs other programs and turns their failures into messages."""

import subprocess
import sys

from .progress import Failure


def run(*argv, **options):
    """Runs a program and returns its standard output; raises a Failure with its error output if it fails."""
    argv = [str(argument) for argument in argv]
    done = subprocess.run(argv, capture_output=True, text=True, **options)
    if done.returncode:
        raise Failure(f"`{' '.join(argv)}` exited with {done.returncode}:\n{done.stderr or done.stdout}")
    return done.stdout


def show(*argv, **options):
    """Runs a program whose output goes to the terminal; raises a Failure if it fails."""
    argv = [str(argument) for argument in argv]
    # Without this, lines that we printed before could appear after the program's when the output is a file.
    sys.stdout.flush()
    if subprocess.run(argv, **options).returncode:
        raise Failure(f"`{' '.join(argv)}` failed; its output is above.")


def succeeds(*argv):
    """Runs a program without showing its output; returns whether it exited with 0."""
    return subprocess.run([str(argument) for argument in argv], capture_output=True).returncode == 0
