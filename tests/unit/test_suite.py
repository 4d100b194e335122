"""Tests of the test suite's summary."""

import unittest

import suite

OUTPUT = """
running 3 tests
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

   Doc-tests cnclip_data

running 3 tests
test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
"""


class Summary(unittest.TestCase):
    def test_the_total_counts_all_test_programs_and_doc_tests(self):
        self.assertEqual(suite.total(OUTPUT), "test result: FAILED. 3 passed; 2 failed; 1 ignored")


if __name__ == "__main__":
    unittest.main()
