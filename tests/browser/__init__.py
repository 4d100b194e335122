"""Opens report pages in headless Chromium: installs what that needs and runs the tests in this folder."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from cnclip_build.commands import run, show
from cnclip_build.paths import CACHE
from cnclip_build.progress import Failure, step
from testbed import tools

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def check(pages):
    """Tests every page of a folder; returns the reason if no browser is available, else None."""
    try:
        browser = find_chromium()
    except Failure as failure:
        return str(failure)
    show("node", "--test", HERE / "pages.test.mjs", env={
        **os.environ, "CNCLIP_PAGES": str(pages), "CNCLIP_CHROMIUM": browser,
        "CNCLIP_PACKAGES": str(install_playwright())})
    return None


def find_chromium():
    """The path of the machine's Chromium or Chrome; installs Debian's package if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        tools.install_packages({"chromium": "chromium"})
        found = shutil.which("chromium")
    if not found:
        raise Failure("the Debian package chromium did not install a program of that name. Install Chromium or Chrome.")
    return found


def install_playwright():
    """Installs the pinned npm package that controls the browser into the user's cache; returns the folder."""
    pins = [HERE / name for name in ("package.json", "package-lock.json")]
    digest = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()[:12]
    folder = CACHE / f"browser-{digest}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with step("browser", f"installing playwright-core into {folder}"):
            temporary = Path(tempfile.mkdtemp(prefix=folder.name, dir=CACHE))
            for pin in pins:
                shutil.copy(pin, temporary)
            # playwright-core's install scripts would download a browser of their own.
            run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=temporary)
            temporary.rename(folder)
    return folder
