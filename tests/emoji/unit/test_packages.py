"""Tests of download validation and of the error messages of failed downloads."""

import base64
import hashlib
import tempfile
import unittest
from pathlib import Path

from dataset import build, packages
from dataset.__main__ import contains_other_files
from dataset.pins import Package


class Packages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_a_tarball_is_named_as_npm_names_it(self):
        self.assertEqual(Package("@lobehub/fluent-emoji-3d", "1.1.0", "").file, "lobehub-fluent-emoji-3d-1.1.0.tgz")

    def test_only_a_file_with_the_pinned_digest_is_valid(self):
        package = Package("p", "1.0.0", base64.b64encode(hashlib.sha512(b"right").digest()).decode())
        tarball = self.folder / package.file
        self.assertFalse(packages.is_valid(tarball, package))
        tarball.write_bytes(b"wrong")
        self.assertFalse(packages.is_valid(tarball, package))
        tarball.write_bytes(b"right")
        self.assertTrue(packages.is_valid(tarball, package))

    def test_the_message_of_a_failed_command_has_its_error_output_and_an_advice(self):
        with self.assertRaisesRegex(packages.Unavailable, "exit code 3:\n  no route\nAsk the network."):
            packages.run(["sh", "-c", "echo no route >&2; exit 3"], "Ask the network.")
        with self.assertRaisesRegex(packages.Unavailable, "no-such-client is not installed. Install it."):
            packages.run(["no-such-client"], "Install it.")

    def test_a_build_that_fails_leaves_nothing(self):
        with self.assertRaises(ZeroDivisionError), build.temporary_folder(self.folder / "set") as folder:
            (folder / "partial").touch()
            raise ZeroDivisionError
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_only_an_older_build_or_an_empty_folder_may_be_replaced(self):
        self.assertFalse(contains_other_files(self.folder / "new"))
        self.assertFalse(contains_other_files(self.folder))
        (self.folder / "info.json").write_text('["not ours"]')
        self.assertTrue(contains_other_files(self.folder))
        self.assertTrue(contains_other_files(self.folder / "info.json"))
        (self.folder / "info.json").write_text('{"recipe": "older"}')
        self.assertFalse(contains_other_files(self.folder))
