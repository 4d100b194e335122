"""The build commands: ``python3 -m cnclip_build images|image-cuda|cuda``."""

import argparse

from . import cuda, images
from .progress import main

COMMANDS = {
    "images": (images.build, "compile and pack the operator's and the trainer's image"),
    "image-cuda": (images.build_cuda, "compile and pack the trainer's image for NVIDIA GPUs"),
    "cuda": (cuda.build, "compile the trainer for NVIDIA GPUs and its device tests, without an image"),
}


def run():
    """Parses the command line and runs the chosen command."""
    parser = argparse.ArgumentParser(prog="cnclip_build", description="Builds programs and images.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, description) in COMMANDS.items():
        commands.add_parser(name, help=description)
    command, _ = COMMANDS[parser.parse_args().command]
    command()


main(run)
