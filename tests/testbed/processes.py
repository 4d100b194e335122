"""Starts processes that outlive this program, finds them again and stops them. Never stops another's process."""

import os
import signal
import time

from cnclip_build.progress import Failure


def start_time(pid):
    """When a process started, in clock ticks since boot; None if it is not running."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            # The second field, the command, may contain spaces and parentheses: fields are counted after its end.
            state, *fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]


def running(testbed, name):
    """The PID of the testbed's process of this name, or None.

    A PID alone does not identify a process, because the kernel reuses it. PID and start time together do.
    """
    try:
        pid, ticks = (testbed.root / "pids" / name).read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_time(pid) == ticks else None


def start(testbed, name, *argv, env=None):
    """Starts a program unless it is running; its output goes to ``logs/name.log``."""
    if running(testbed, name):
        return
    log = testbed.folder("logs") / f"{name}.log"
    argv = [str(argument) for argument in argv]
    # A session of its own: Ctrl-C in the terminal must not stop the testbed's processes in arbitrary order.
    pid = os.posix_spawnp(argv[0], argv, {**os.environ, **(env or {})}, setsid=True, file_actions=[
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2)])
    (testbed.folder("pids") / name).write_text(f"{pid} {start_time(pid)}")


def stop(testbed, name, gracefully=True):
    """Stops a process: with SIGTERM first if `gracefully`, with SIGKILL if it is still running after five seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL) if gracefully else (signal.SIGKILL,):
        pid = running(testbed, name)
        if pid is None:
            break
        os.kill(pid, number)
        wait_until(lambda: running(testbed, name) is None, 5)
    (testbed.root / "pids" / name).unlink(missing_ok=True)


def wait_until(condition, seconds):
    """Evaluates a condition ten times a second; returns its first true value, or None after the timeout."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.1)
    return None


def wait_until_ready(testbed, name, condition, seconds=60):
    """Waits until a process is ready; raises a Failure with the end of its log if it exits or is not ready in time."""
    log = testbed.root / "logs" / f"{name}.log"
    result = wait_until(lambda: condition() or ("exited" if running(testbed, name) is None else None), seconds)
    if result is None or result == "exited":
        log_tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Failure(f"{name} {result or f'was not ready after {seconds} s'}. The end of {log}:\n{log_tail}")
