"""What belongs to a split, and the check of what came out."""

import unittest

from dataset import build, pins, splits
from dataset.concepts import Concept, Wording
from dataset.pictures import Picture
from dataset.pins import Counts
from dataset.vendors import GOOGLE, TWITTER

HAMMER = Concept(1, (0x1F528,), "Objects", "tool", {"zh": Wording("锤子", "工具 铁锤")})
AXE = Concept(2, (0x1FA93,), "Objects", "tool", {"zh": Wording("斧头", "")})


def drawn(vendor, concept, pixels):
    return splits.Drawn(vendor, concept, Picture(pixels, b"png"))


class Splits(unittest.TestCase):
    both = [drawn(TWITTER, HAMMER, b"h"), drawn(TWITTER, AXE, b"a"), drawn(GOOGLE, HAMMER, b"H")]

    def test_an_image_id_tells_the_concept_and_the_vendor(self):
        self.assertEqual([item.id for item in self.both], [18, 28, 15])

    def test_equal_pictures_are_dropped_only_within_one_vendor(self):
        again = [drawn(TWITTER, AXE, b"same"), drawn(TWITTER, HAMMER, b"same"), drawn(GOOGLE, HAMMER, b"same")]
        self.assertEqual([item.id for item in splits.distinct(again)], [28, 15])

    def test_keywords_are_a_second_text_where_there_are_any(self):
        rows = splits.texts(self.both, "zh", keywords=True)
        self.assertEqual(rows, [{"text_id": 10, "text": "锤子", "image_ids": [15, 18]},
                                {"text_id": 11, "text": "工具 铁锤", "image_ids": [15, 18]},
                                {"text_id": 20, "text": "斧头", "image_ids": [28]}])
        self.assertEqual(splits.counts(self.both, rows), Counts(images=3, texts=3, pairs=5))

    def test_without_keywords_every_concept_has_one_text(self):
        self.assertEqual([row["text_id"] for row in splits.texts(self.both, "zh", keywords=False)], [10, 20])

    def test_the_digest_of_the_pixels_knows_whose_they_are(self):
        other = [drawn(GOOGLE, HAMMER, b"h"), *self.both[1:]]
        self.assertNotEqual(splits.pixels_digest(self.both), splits.pixels_digest(other))

    def test_no_vendor_draws_for_two_splits(self):
        names = [vendor.name for vendors in splits.VENDORS.values() for vendor in vendors]
        self.assertEqual(len(names), len(set(names)))

    def test_a_split_of_another_size_is_refused(self):
        build.expect("test in zh", Counts(1892, 1892, 1892), pins.COUNTS["zh"]["test"])
        with self.assertRaisesRegex(build.Unfaithful, "test in zh: found .*1891.* expected .*1892"):
            build.expect("test in zh", Counts(1892, 1892, 1891), pins.COUNTS["zh"]["test"])
