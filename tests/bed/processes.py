"""Starts processes that outlive us, knows them again and ends them; never ends another's process."""

import os
import signal
import subprocess
import sys
import time

from .steps import Failure


def started_at(pid):
    """When the process started, in clock ticks since boot; None when it runs no more."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def alive(bed, name):
    """The pid of the bed's process of this name, or None. A number used again by another is not ours."""
    try:
        pid, ticks = (bed.root / "pids" / name).read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if started_at(pid) == ticks else None


def start(bed, name, *argv, env=None):
    """Starts the program unless it runs; its output goes to ``logs/name.log``."""
    if alive(bed, name):
        return
    log = bed.folder("logs") / f"{name}.log"
    words = [str(a) for a in argv]
    pid = os.posix_spawnp(words[0], words, {**os.environ, **(env or {})}, setsid=True, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2)])
    (bed.folder("pids") / name).write_text(f"{pid} {started_at(pid)}")


def end(bed, name, gently=True):
    """Ends the process: asks it first if `gently`, and makes it when it does not in five seconds."""
    for how in (signal.SIGTERM, signal.SIGKILL) if gently else (signal.SIGKILL,):
        pid = alive(bed, name)
        if pid is None:
            break
        os.kill(pid, how)
        wait(lambda: alive(bed, name) is None, 5)
    (bed.root / "pids" / name).unlink(missing_ok=True)


def wait(condition, seconds):
    """Asks ten times a second; the first true answer, or None when the time is up."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if answer := condition():
            return answer
        time.sleep(0.1)
    return None


def wait_ready(bed, name, condition, seconds=60):
    """Waits until the process of this name is ready, and fails with the end of its log if it dies or is late."""
    log = bed.root / "logs" / f"{name}.log"
    answer = wait(lambda: condition() or ("died" if alive(bed, name) is None else None), seconds)
    if answer is None or answer == "died":
        end_of_log = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Failure(f"{name} {answer or f'was not ready after {seconds} s'}. The end of {log}:\n{end_of_log}")


def quiet(*argv):
    """Runs a program without a word; whether it succeeded."""
    return subprocess.run([str(a) for a in argv], capture_output=True).returncode == 0


def run(*argv, **options):
    """Runs a program and returns what it printed; a Failure with its own words when it fails."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **options)
    if done.returncode:
        raise Failure(f"`{' '.join(map(str, argv))}` exited with {done.returncode}:\n{done.stderr or done.stdout}")
    return done.stdout


def show(*argv, **options):
    """Runs a program whose words go to the terminal; a Failure when it fails."""
    sys.stdout.flush()
    if subprocess.run([str(a) for a in argv], **options).returncode:
        raise Failure(f"`{' '.join(map(str, argv))}` failed; its words are above.")
