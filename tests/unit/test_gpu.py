"""Tests of the GPU check that need no GPU."""

import tempfile
import unittest
import unittest.mock
from pathlib import Path

from gpu import check

OUTPUT = """
running 2 tests
test linear::forward ... ok
test linear::backward ... FAILED

failures:

---- linear::backward stdout ----
number 3 is 1, the CPU's 2

test result: FAILED. 1 passed; 1 failed; 0 ignored
"""


class Check(unittest.TestCase):
    def test_failed_tests_are_printed_with_their_reasons_and_the_total(self):
        lines = list(check.failures_and_totals(OUTPUT))
        self.assertEqual(lines[0], "test linear::backward ... FAILED")
        self.assertIn("number 3 is 1, the CPU's 2", lines)
        self.assertNotIn("test linear::forward ... ok", lines)

    def test_the_end_of_a_failed_programs_output_is_part_of_the_failure(self):
        with tempfile.TemporaryDirectory() as folder, \
                self.assertRaisesRegex(check.CheckFailure, "exited with 3:\nreason"):
            check.run(["sh", "-c", "echo reason >&2; exit 3"], None, Path(folder, "log"))

    def test_libraries_are_found_in_packages_and_nccl_by_the_name_that_the_program_opens(self):
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "nccl/lib/libnccl.so.2")
            library.parent.mkdir(parents=True)
            library.touch()
            found = unittest.mock.Mock(submodule_search_locations=[folder])
            with unittest.mock.patch("importlib.util.find_spec", return_value=found):
                folders = check.library_path().split(":")
            self.assertIn(str(library.parent), folders)
            self.assertTrue(any(Path(folder, "libnccl.so").exists() for folder in folders))

    def test_a_curve_consists_of_mean_losses_and_the_last_recall(self):
        rows = [{"step": step, "loss": step // check.CURVE_WINDOW} for step in range(check.DEMO_STEPS)]
        rows += [{"step": 300, "recalls": {"textToImage": {"meanRecall": 7.5}}}]
        means = [*range(check.DEMO_STEPS // check.CURVE_WINDOW)]
        self.assertEqual(check.loss_curve(rows), {"means": means, "recall": 7.5})

    def test_former_names_of_parts_are_accepted(self):
        self.assertEqual(check.parse_parts("card,tests,twin"), ["device", "tests", "pytorch"])


if __name__ == "__main__":
    unittest.main()
