"""Renders artwork to pixels: small, square, RGB, on a white background."""

import io
from typing import NamedTuple

import resvg_py
from PIL import Image

from dataset.vendors import Artwork

IMAGE_SIZE = 64
VECTOR_SIZE = 256  # vectors are rendered large, then scaled down like the bitmaps


class RenderedImage(NamedTuple):
    """The pixels of an image and the same as a PNG file."""

    pixels: bytes  # [IMAGE_SIZE, IMAGE_SIZE, 3]
    png: bytes


def render(artwork: Artwork) -> RenderedImage:
    """Renders vectors, flattens transparency and scales."""
    if isinstance(artwork, str):
        # Without the machine's fonts, so that every machine renders the same pixels.
        artwork = bytes(resvg_py.svg_to_bytes(svg_string=artwork, width=VECTOR_SIZE, height=VECTOR_SIZE,
                                              skip_system_fonts=True))
    image = flatten(Image.open(io.BytesIO(artwork)))
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=9)
    return RenderedImage(image.tobytes(), png.getvalue())


def flatten(image: Image.Image) -> Image.Image:
    """Composes the image over white."""
    # `convert("RGB")` alone would show the arbitrary colors of fully transparent pixels.
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
