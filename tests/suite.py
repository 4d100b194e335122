"""All checks of the project. ``make test`` runs everything; ``make check`` what needs neither root nor a cluster."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import browser
from cnclip_build import images
from cnclip_build.commands import show
from cnclip_build.paths import PROJECT, PYTHON, cargo_target
from cnclip_build.progress import elapsed, main
from testbed import cluster, tools
from testbed.config import Testbed

LOG = PROJECT / "target/test.log"
CARGO_TEST = ("cargo", "test", "--workspace", "--release", "--locked", "--no-fail-fast")
WITHOUT_CLUSTER = (*CARGO_TEST, "--exclude", "cnclip-tests")
"""All Rust tests, doc tests included, except the end-to-end tests."""

TEST_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)


def run():
    """Runs all parts and prints the time of each and the number of passed and failed tests; returns the exit code."""
    parser = argparse.ArgumentParser(prog="suite", description="Checks and tests everything.")
    parser.add_argument("--no-cluster", action="store_true", help="skip the end-to-end tests, which need root")
    arguments = parser.parse_args()
    cargo_test = WITHOUT_CLUSTER if arguments.no_cluster else CARGO_TEST
    times = []

    def part(name, work):
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        result = work()
        times.append((name, elapsed(start)))
        return result

    cargo_target()  # exports CARGO_TARGET_DIR to every cargo below
    # What fails often and takes seconds comes first, the end-to-end tests last.
    part("tools", install_build_tools if arguments.no_cluster else tools.install)
    part("format", check_format)
    part("dependencies", check_dependencies)
    part("lints", check_lints)
    part("documentation", check_documentation)
    part("architecture", check_architecture)
    part("CUDA code", check_cuda_code)
    part("Python unit tests", unit_tests)
    part("data set", emoji_tests)
    part("images", images.build)
    part("compiling the tests", lambda: show(*cargo_test, "--no-run", "--quiet", cwd=PROJECT))
    part("parity with PyTorch", parity_tests)
    part("pages in a browser", browser_tests)
    code = part("tests", tests_without_cluster if arguments.no_cluster else tests_with_cluster)
    print("\n" + "\n".join(f"{name:22}{time_taken}" for name, time_taken in times))
    print(total(LOG.read_text(errors="replace")))
    return code


def install_build_tools():
    """Installs the Debian packages that compiling needs."""
    tools.install_packages(tools.BUILD_PACKAGES)


def check_format():
    """Checks the format of the Rust code."""
    show("cargo", "fmt", "--all", "--check", cwd=PROJECT)


def check_dependencies():
    """Checks licenses and sources of all dependencies by deny.toml. Advisories change daily: a workflow checks them."""
    show(PROJECT / "packaging/cargo-deny/run", "--locked", "check", "licenses", "bans", "sources", cwd=PROJECT)


def check_lints():
    """Runs clippy on all crates for CPUs."""
    show("cargo", "clippy", "--workspace", "--all-targets", "--release", "--locked", "--quiet", "--", "-D", "warnings",
         cwd=PROJECT)


def check_documentation():
    """Checks that all links in the documentation of public and private items resolve."""
    flags = "-D rustdoc::broken_intra_doc_links"
    show("cargo", "doc", "--workspace", "--release", "--locked", "--quiet", "--no-deps", "--document-private-items",
         cwd=PROJECT, env={**os.environ, "RUSTDOCFLAGS": flags})


def check_architecture():
    """Runs the tests of the module structure before everything that takes long."""
    # --workspace, so that dependencies get the features of the whole workspace and are not compiled twice.
    show(*CARGO_TEST, "--quiet", "--test", "architecture", cwd=PROJECT)


def check_cuda_code():
    """Compiles every kernel for real GPUs and lints the code that drives them. ``make gpu-check`` runs it on one."""
    show("cargo", "clippy", "--release", "--locked", "--quiet", "--package", "cnclip-trainer", "--package",
         "cnclip-compute", "--all-targets", "--features", "cuda", "--", "-D", "warnings",
         cwd=PROJECT, env=images.cuda_build_environment())


def unit_tests():
    """Tests the Python code of packaging, testbed, demo and GPU check."""
    show(sys.executable, "-m", "unittest", "discover", "-s", "tests/unit", cwd=PROJECT)


def emoji_tests():
    """Tests the program that builds the demo's data set, with its pinned packages."""
    show(PYTHON, "tests/emoji", "-m", "unittest", "discover", "-s", "tests/emoji", cwd=PROJECT)


def parity_tests():
    """Compares models and scores with PyTorch and the reference; installs these on first use."""
    program = images.compile_release() / images.PROGRAMS["trainer"]
    show(PYTHON, "tests/parity", "-m", "unittest", "discover", "-s", "tests/parity", cwd=PROJECT,
         env={**os.environ, "CNCLIP_PROGRAM": str(program)})


def browser_tests():
    """Opens report pages in Chromium; skipped, with the reason, where there is none and none can be installed."""
    folder = PROJECT / "target/pages"
    show(cargo_target() / "release/examples/page", folder, cwd=PROJECT)
    if reason := browser.check(folder):
        print(f"SKIPPED: the pages were not opened in a browser: {reason}")


def tests_without_cluster():
    """Runs all Rust tests, doc tests included, except the end-to-end tests; returns cargo's exit code."""
    return show_and_log(WITHOUT_CLUSTER, {**os.environ, "CNCLIP_VOCAB": str(images.fetch_vocabulary())})


def tests_with_cluster():
    """Runs all Rust tests, doc tests included, with a testbed running; returns cargo's exit code."""
    # A network other than the demo's default, so that a testbed kept by `KEEP=1 make demo` is left alone.
    if not os.environ.get("BED_NET"):
        os.environ.setdefault("TESTBED_NETWORK", "89")
    testbed = Testbed.from_environment()
    with cluster.fresh(testbed):
        program = images.compile_release() / images.PROGRAMS["trainer"]
        environment = {"CNCLIP_TESTBED": str(testbed.connection_file), "CNCLIP_VOCAB": str(images.fetch_vocabulary()),
                       "CNCLIP_PROGRAM": str(program)}
        return show_and_log(CARGO_TEST, {**os.environ, **environment})


def show_and_log(command, environment):
    """Prints a command's output as it arrives and writes it to the log; returns the exit code."""
    with subprocess.Popen(command, cwd=PROJECT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as tests, open(LOG, "w") as log:
        for line in tests.stdout:
            sys.stdout.write(line)
            log.write(line)
    return tests.returncode


def total(output):
    """The sum of the result lines of all test programs in `output`, in cargo's format."""
    passed, failed, ignored = (sum(map(int, counts)) for counts in zip(*TEST_RESULT.findall(output), strict=True))
    status = "FAILED" if failed else "ok"
    return f"test result: {status}. {passed} passed; {failed} failed; {ignored} ignored"


if __name__ == "__main__":
    main(run)
