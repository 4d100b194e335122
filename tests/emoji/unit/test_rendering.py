"""Tests of rendering."""

import io
import unittest

from PIL import Image

from dataset.rendering import IMAGE_SIZE, render
from dataset.vendors import icons, resolve

SET = {"height": 36, "width": 36, "aliases": {"mallet": {"parent": "beater"}, "beater": {"parent": "hammer"}},
       "icons": {"hammer": {"body": '<rect width="72" height="36" fill="#f00"/>', "width": 72}}}


class Rendering(unittest.TestCase):
    def test_transparent_pixels_become_white(self):
        file = io.BytesIO()
        Image.new("RGBA", (IMAGE_SIZE, IMAGE_SIZE), (255, 0, 0, 0)).save(file, "PNG")
        self.assertEqual(set(render(file.getvalue()).pixels), {255})

    def test_all_images_have_the_same_size_and_the_png_decodes_to_the_pixels(self):
        file = io.BytesIO()
        Image.effect_noise((160, 160), 80).save(file, "PNG")
        rendered = render(file.getvalue())
        decoded = Image.open(io.BytesIO(rendered.png))
        self.assertEqual((decoded.mode, decoded.size, decoded.tobytes()), ("RGB", (IMAGE_SIZE, IMAGE_SIZE), rendered.pixels))

    def test_an_icon_is_found_through_its_aliases(self):
        self.assertIs(resolve(SET, "mallet"), SET["icons"]["hammer"])
        self.assertIsNone(resolve(SET, "anvil"))

    def test_an_icon_keeps_its_own_size_and_takes_the_rest_from_its_set(self):
        artwork, = icons(SET, {"1f528": "mallet", "1f9f0": "toolbox"}).values()
        self.assertIn('viewBox="0 0 72 36"', artwork)

    def test_a_vector_is_rendered(self):
        rendered = render(icons(SET, {"1f528": "hammer"})[(0x1F528,)])
        middle = IMAGE_SIZE * IMAGE_SIZE // 2 * 3 + IMAGE_SIZE // 2 * 3
        self.assertEqual(tuple(rendered.pixels[middle:middle + 3]), (255, 0, 0))
