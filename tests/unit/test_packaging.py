"""Tests of the image writer and of the CUDA build that compile nothing."""

import io
import json
import tarfile
import tempfile
import unittest
from pathlib import Path

from cnclip_build import cuda
from cnclip_build.oci import Image


class Images(unittest.TestCase):
    def test_equal_files_give_equal_images_in_any_order(self):
        one = Image(["/a"]).add_file("/b/c", b"1").add_file("/a", b"2", 0o755)
        other = Image(["/a"]).add_file("/a", b"2", 0o755).add_file("/b/c", b"1")
        self.assertEqual(one.digest(), other.digest())

    def test_another_content_mode_user_or_path_gives_another_image(self):
        image = Image(["/a"]).add_file("/a", b"1").digest()
        for other in (Image(["/a"]).add_file("/a", b"2"), Image(["/a"]).add_file("/a", b"1", 0o755),
                      Image(["/a"], user="1:1").add_file("/a", b"1"), Image(["/a"]).add_file("/b", b"1")):
            self.assertNotEqual(other.digest(), image)

    def test_a_layer_lists_folders_before_their_files_and_all_belong_to_root(self):
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "image.tar"
            Image(["/x/y/z"]).add_file("/x/y/z", b"1").add_file("/x/a", b"2").write(tar, "name:tag")
            with tarfile.open(tar) as image:
                largest = max(image.getmembers(), key=lambda member: member.size)
                layer = image.extractfile(largest).read()
        with tarfile.open(fileobj=io.BytesIO(layer)) as files:
            self.assertEqual(files.getnames(), ["x", "x/a", "x/y", "x/y/z"])
            self.assertEqual({(member.uid, member.gid, member.mtime) for member in files}, {(0, 0, 0)})


class CudaSamples(unittest.TestCase):
    def test_every_second_image_is_selected_with_the_texts_about_it(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "train_imgs.tsv").write_text("".join(f"{number}\tpixels\n" for number in (10, 11, 20, 21)))
            texts = [{"text_id": 1, "text": "a", "image_ids": [10, 11]}, {"text_id": 2, "text": "b", "image_ids": [21]}]
            (folder / "train_texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
            images_file, texts_file = cuda.select_half(folder, "train", folder)
            self.assertEqual(images_file.read_text(), "10\tpixels\n20\tpixels\n")
            self.assertEqual(json.loads(texts_file.read_text()), {"text_id": 1, "text": "a", "image_ids": [10]})


if __name__ == "__main__":
    unittest.main()
