"""The commands of the testbed: ``python3 -m testbed tools|up|down``."""

import argparse

from cnclip_build.progress import main

from . import cluster, tools
from .config import Testbed


def parse_arguments():
    """The command line of ``python3 -m testbed``."""
    parser = argparse.ArgumentParser(prog="testbed", description="A one-node Kubernetes, S3 and Prometheus.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tools", help="install and build the programs of a testbed")
    commands.add_parser("up", help="start everything that is not running")
    down = commands.add_parser("down", help="stop what `up` started")
    down.add_argument("--wipe", action="store_true", help="also delete the testbed's data")
    return parser.parse_args()


def run():
    """Parses the command line and runs the chosen command."""
    arguments = parse_arguments()
    testbed = Testbed.from_environment()
    match arguments.command:
        case "tools":
            tools.install()
        case "up":
            cluster.up(testbed)
        case "down":
            cluster.down(testbed, arguments.wipe)


main(run)
