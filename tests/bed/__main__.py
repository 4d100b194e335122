"""The commands of the test bed: ``python3 -m bed tools|images|up|down``."""

import argparse

from . import cluster, images, tools
from .place import Bed
from .steps import main


def command_line():
    parser = argparse.ArgumentParser(prog="bed", description="A real one-node Kubernetes, S3 and Prometheus.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tools", help="install and build what a bed is made of")
    made = commands.add_parser("images", help="build the operator's and the trainer's image")
    made.add_argument("only", nargs="?", choices=["trainer-cuda"], help="the trainer's image for GPUs instead")
    commands.add_parser("up", help="bring up whatever is not up")
    down = commands.add_parser("down", help="end what `up` started")
    down.add_argument("--wipe", action="store_true", help="remove the bed's data too")
    return parser.parse_args()


def run():
    chosen = command_line()
    bed = Bed.from_environment()
    match chosen.command:
        case "tools":
            tools.get()
        case "images":
            images.build_cuda() if chosen.only else images.build()
        case "up":
            cluster.up(bed)
        case "down":
            cluster.down(bed, chosen.wipe)


main(run)
