"""Tests of the splits and of the verification of the result."""

import unittest

from dataset import build, pins, splits
from dataset.concepts import Concept, Wording
from dataset.rendering import RenderedImage
from dataset.pins import Counts
from dataset.vendors import GOOGLE, TWITTER

HAMMER = Concept(1, (0x1F528,), "Objects", "tool", {"zh": Wording("锤子", "工具 铁锤")})
AXE = Concept(2, (0x1FA93,), "Objects", "tool", {"zh": Wording("斧头", "")})


def image(vendor, concept, pixels):
    return splits.LabeledImage(vendor, concept, RenderedImage(pixels, b"png"))


class Splits(unittest.TestCase):
    images = [image(TWITTER, HAMMER, b"h"), image(TWITTER, AXE, b"a"), image(GOOGLE, HAMMER, b"H")]

    def test_an_image_id_contains_the_concept_and_the_vendor(self):
        self.assertEqual([item.id for item in self.images], [18, 28, 15])

    def test_equal_images_are_dropped_only_within_one_vendor(self):
        duplicates = [image(TWITTER, AXE, b"same"), image(TWITTER, HAMMER, b"same"), image(GOOGLE, HAMMER, b"same")]
        self.assertEqual([item.id for item in splits.distinct(duplicates)], [28, 15])

    def test_keywords_are_a_second_text_if_there_are_any(self):
        rows = splits.texts(self.images, "zh", keywords=True)
        self.assertEqual(rows, [{"text_id": 10, "text": "锤子", "image_ids": [15, 18]},
                                {"text_id": 11, "text": "工具 铁锤", "image_ids": [15, 18]},
                                {"text_id": 20, "text": "斧头", "image_ids": [28]}])
        self.assertEqual(splits.counts(self.images, rows), Counts(images=3, texts=3, pairs=5))

    def test_without_keywords_every_concept_has_one_text(self):
        self.assertEqual([row["text_id"] for row in splits.texts(self.images, "zh", keywords=False)], [10, 20])

    def test_the_digest_of_the_pixels_depends_on_the_vendor(self):
        other = [image(GOOGLE, HAMMER, b"h"), *self.images[1:]]
        self.assertNotEqual(splits.pixels_digest(self.images), splits.pixels_digest(other))

    def test_no_vendor_is_in_two_splits(self):
        names = [vendor.name for vendors in splits.VENDORS.values() for vendor in vendors]
        self.assertEqual(len(names), len(set(names)))

    def test_a_split_of_another_size_is_an_error(self):
        build.verify("test in zh", Counts(1892, 1892, 1892), pins.COUNTS["zh"]["test"])
        with self.assertRaisesRegex(build.UnexpectedResult, "test in zh: found .*1891.* expected .*1892"):
            build.verify("test in zh", Counts(1892, 1892, 1891), pins.COUNTS["zh"]["test"])
