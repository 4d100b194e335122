"""Tests of concepts and their names."""

import unittest

from dataset.concepts import Wording, concepts, from_characters, from_hex, wording, wordings


def emoji(unified: str, order: int, category: str = "Objects") -> dict:
    return {"unified": unified, "sort_order": order, "category": category, "subcategory": "tool"}


class Concepts(unittest.TestCase):
    def test_both_notations_of_an_emoji_give_the_same_code_points(self):
        self.assertEqual(from_hex("2764-FE0F-200D-1F525"), (0x2764, 0x200D, 0x1F525))
        self.assertEqual(from_characters("\u2764\ufe0f\u200d\U0001f525"), from_hex("2764-200d-1f525"))

    def test_the_name_is_not_repeated_among_the_keywords(self):
        self.assertEqual(wording("锤子", ["工具", "锤子", "铁锤"]), Wording("锤子", "工具 铁锤"))

    def test_a_symbol_without_a_name_has_no_wording(self):
        self.assertEqual(wordings({"\u2692\ufe0f": {"tts": ["锤子与镐"]}, "x": {"default": ["字母"]}}),
                         {(0x2692,): Wording("锤子与镐", "")})

    def test_concepts_are_numbered_in_unicodes_order_and_named_in_every_language(self):
        words = {(0x1F528,): Wording("a", ""), (0x1FA93,): Wording("b", ""), (0x1F3FB,): Wording("c", "")}
        partly = {(0x1F528,): Wording("A", ""), (0x1FA93,): Wording("B", ""), (0x1F3FB,): Wording("C", "")}
        unnamed = emoji("1F9F0", 0)
        found = concepts([emoji("1FA93", 2), emoji("1F528", 1), emoji("1F3FB", 3, "Component"), unnamed],
                         {"zh": words | {(0x1F9F0,): Wording("d", "")}, "en": partly})
        self.assertEqual([(c.id, c.wordings["zh"].name, c.wordings["en"].name) for c in found],
                         [(1, "a", "A"), (2, "b", "B")])
