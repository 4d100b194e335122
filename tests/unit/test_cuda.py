"""The parts of the check on a GPU that decide something, without a GPU."""

import json
import tempfile
import unittest
import unittest.mock
from pathlib import Path

from cuda import build, check

WORDS = """
running 2 tests
test linear::forward ... ok
test linear::backward ... FAILED

failures:

---- linear::backward stdout ----
number 3 is 1, the CPU's 2

test result: FAILED. 1 passed; 1 failed; 0 ignored
"""


class Check(unittest.TestCase):
    def test_what_failed_is_told_with_its_reasons_and_the_total(self):
        said = list(check.told(WORDS))
        self.assertEqual(said[0], "test linear::backward ... FAILED")
        self.assertIn("number 3 is 1, the CPU's 2", said)
        self.assertNotIn("test linear::forward ... ok", said)

    def test_a_program_that_fails_is_told_with_the_end_of_its_words(self):
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(check.Wrong, "exited with 3:\nwhy"):
            check.run(["sh", "-c", "echo why >&2; exit 3"], None, Path(folder, "log"))

    def test_libraries_are_found_in_packages_and_nccl_by_the_name_it_is_loaded_by(self):
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "nccl/lib/libnccl.so.2")
            library.parent.mkdir(parents=True)
            library.touch()
            found = unittest.mock.Mock(submodule_search_locations=[folder])
            with unittest.mock.patch("importlib.util.find_spec", return_value=found):
                folders = check.library_path().split(":")
            self.assertIn(str(library.parent), folders)
            self.assertTrue(any(Path(folder, "libnccl.so").exists() for folder in folders))

    def test_every_second_picture_travels_with_its_texts_and_with_no_others(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "train_imgs.tsv").write_text("".join(f"{number}\tpixels\n" for number in (10, 11, 20, 21)))
            texts = [{"text_id": 1, "text": "a", "image_ids": [10, 11]}, {"text_id": 2, "text": "b", "image_ids": [21]}]
            (folder / "train_texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
            images, captions = build.half(folder, "train", folder)
            self.assertEqual(images.read_text(), "10\tpixels\n20\tpixels\n")
            self.assertEqual(json.loads(captions.read_text()), {"text_id": 1, "text": "a", "image_ids": [10]})

    def test_a_curve_is_the_means_of_neighbouring_losses_and_the_last_recall(self):
        rows = [{"step": step, "loss": step // check.WINDOW} for step in range(check.DEMO_STEPS)]
        rows += [{"step": 300, "recalls": {"textToImage": {"meanRecall": 7.5}}}]
        with unittest.mock.patch.object(check, "trained", return_value=rows):
            found = check.curve(None, None, None, None, None, None)
        self.assertEqual(found, {"means": [*range(check.DEMO_STEPS // check.WINDOW)], "recall": 7.5})


if __name__ == "__main__":
    unittest.main()
