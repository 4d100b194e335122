"""Every check of the project, as ``make test`` runs it: format, lints, images, and all tests on a fresh bed."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import browser
from bed import cluster, images, tools
from bed.place import CACHE, Bed
from bed.processes import show
from bed.steps import main, since

os.environ.setdefault("CARGO_TARGET_DIR", str(CACHE / "target"))
LOG = images.PROJECT / "target/test.log"
TESTS = ("cargo", "test", "--workspace", "--release", "--locked", "--no-fail-fast")
RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)


def run():
    """Runs one part after the other and ends with the parts' times and the tests' results."""
    times = []

    def part(name, work):
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        result = work()
        times.append((name, since(start)))
        return result

    part("tools", tools.get)
    part("format", lambda: check("cargo", "fmt", "--all", "--check"))
    part("lints", lambda: check("cargo", "clippy", "--workspace", "--all-targets", "--release", "--locked",
                                "--quiet", "--", "-D", "warnings"))
    part("code for GPUs", gpu)
    part("bed and demo", lambda: check(sys.executable, "-m", "unittest", "discover", "-s", "tests/unit"))
    part("data set", lambda: check("tests/python", "tests/emoji", "-m", "unittest", "discover", "-s", "tests/emoji"))
    part("images", images.build)
    part("compiling the tests", lambda: check(*TESTS, "--no-run", "--quiet"))
    part("twins", twins)
    part("pages in a browser", pages)
    code = part("tests", test)
    print("\n" + "\n".join(f"{name:22}{took}" for name, took in times))
    print(total(LOG.read_text(errors="replace")))
    return code


def check(*command):
    show(*command, cwd=images.PROJECT)


def gpu():
    """Compiles every kernel for real cards, and lints what drives them; only `make gpu-check` runs it."""
    command = ("cargo", "clippy", "--release", "--locked", "--quiet", "--package", "cnclip-trainer", "--package",
               "cnclip-compute", "--all-targets", "--features", "cuda", "--", "-D", "warnings")
    show(*command, cwd=images.PROJECT, env=images.cuda_environment())


def twins():
    """Models go to PyTorch and back; its packages are installed the first time."""
    program = images.compile_release() / images.PROGRAMS["trainer"]
    show("tests/python", "tests/twins", "-m", "unittest", "discover", "-s", "tests/twins", cwd=images.PROJECT,
         env={**os.environ, "CNCLIP_PROGRAM": str(program)})


def pages():
    """Opens the report in Chromium; says why not, where there is none and none can be installed."""
    folder = images.PROJECT / "target/pages"
    show(Path(os.environ["CARGO_TARGET_DIR"], "release/examples/page"), folder, cwd=images.PROJECT)
    if why := browser.check(folder):
        print(f"SKIPPED: the pages were not opened in a browser: {why}")


def test():
    """Runs all tests with a bed up; their exit code."""
    # A bed of its own, so that one kept from a demo lives on.
    os.environ.setdefault("BED_NET", "89")
    bed = Bed.from_environment()
    with cluster.fresh(bed):
        program = images.compile_release() / images.PROGRAMS["trainer"]
        environment = {"CNCLIP_BED": str(bed.facts), "CNCLIP_VOCAB": str(images.vocabulary()),
                       "CNCLIP_PROGRAM": str(program)}
        return show_and_keep(TESTS, {**os.environ, **environment})


def show_and_keep(command, environment):
    """Shows the command's output as it comes and keeps it in the log; its exit code."""
    with subprocess.Popen(command, cwd=images.PROJECT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as tests, open(LOG, "w") as log:
        for line in tests.stdout:
            sys.stdout.write(line)
            log.write(line)
    return tests.returncode


def total(output):
    """One line in cargo's own words for all test programs together."""
    passed, failed, ignored = (sum(map(int, counts)) for counts in zip(*RESULT.findall(output), strict=True))
    word = "FAILED" if failed else "ok"
    return f"test result: {word}. {passed} passed; {failed} failed; {ignored} ignored"


if __name__ == "__main__":
    main(run)
