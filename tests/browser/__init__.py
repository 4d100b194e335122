"""Opens the report's pages in headless Chromium: gets what that needs, and runs the tests beside this file."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from bed import tools
from bed.place import CACHE
from bed.processes import run, show
from bed.steps import Failure, step

HERE = Path(__file__).parent
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def check(pages):
    """Looks at every page of the folder; why not, where there is no browser to be had."""
    try:
        browser = chromium()
    except Failure as failure:
        return str(failure)
    show("node", "--test", HERE / "pages.test.mjs", env={
        **os.environ, "CNCLIP_PAGES": str(pages), "CNCLIP_CHROMIUM": browser, "CNCLIP_PACKAGES": str(packages())})
    return None


def chromium():
    """The browser of this machine, or Debian's, installed now."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not found:
        tools.get_packages({"chromium": "chromium"})
        found = shutil.which("chromium")
    if not found:
        raise Failure("the Debian package chromium has no program chromium. Install Chromium or Chrome.")
    return found


def packages():
    """The folder with the pinned package that drives the browser, kept in the user's cache."""
    pins = [HERE / name for name in ("package.json", "package-lock.json")]
    digest = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()[:12]
    folder = CACHE / f"browser-{digest}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with step("browser", f"installing playwright-core into {folder}"):
            aside = Path(tempfile.mkdtemp(prefix=folder.name, dir=CACHE))
            for pin in pins:
                shutil.copy(pin, aside)
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=aside)
            aside.rename(folder)
    return folder
