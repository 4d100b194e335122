"""Drawings and the pixels they become."""

import io
import unittest

from PIL import Image

from dataset.pictures import SIZE, render
from dataset.vendors import icons, resolve

SET = {"height": 36, "width": 36, "aliases": {"mallet": {"parent": "beater"}, "beater": {"parent": "hammer"}},
       "icons": {"hammer": {"body": '<rect width="72" height="36" fill="#f00"/>', "width": 72}}}


class Pictures(unittest.TestCase):
    def test_colours_below_alpha_zero_become_white(self):
        file = io.BytesIO()
        Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0)).save(file, "PNG")
        self.assertEqual(set(render(file.getvalue()).pixels), {255})

    def test_every_picture_has_one_size_and_its_png_decodes_to_its_pixels(self):
        file = io.BytesIO()
        Image.effect_noise((160, 160), 80).save(file, "PNG")
        picture = render(file.getvalue())
        decoded = Image.open(io.BytesIO(picture.png))
        self.assertEqual((decoded.mode, decoded.size, decoded.tobytes()), ("RGB", (SIZE, SIZE), picture.pixels))

    def test_an_icon_is_found_through_its_aliases(self):
        self.assertIs(resolve(SET, "mallet"), SET["icons"]["hammer"])
        self.assertIsNone(resolve(SET, "anvil"))

    def test_an_icon_keeps_its_own_size_and_takes_the_rest_from_its_set(self):
        drawing, = icons(SET, {"1f528": "mallet", "1f9f0": "toolbox"}).values()
        self.assertIn('viewBox="0 0 72 36"', drawing)

    def test_a_vector_is_drawn(self):
        picture = render(icons(SET, {"1f528": "hammer"})[(0x1F528,)])
        middle = SIZE * SIZE // 2 * 3 + SIZE // 2 * 3
        self.assertEqual(tuple(picture.pixels[middle:middle + 3]), (255, 0, 0))
