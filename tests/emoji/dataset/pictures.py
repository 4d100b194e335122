"""Turns a drawing into pixels: small, square, RGB, on white. Knows nothing of what it shows."""

import io
from typing import NamedTuple

import resvg_py
from PIL import Image

from dataset.vendors import Drawing

SIZE = 64
VECTOR_SIZE = 256  # vectors are drawn large, then scaled down like the bitmaps


class Picture(NamedTuple):
    """A rendered drawing."""

    pixels: bytes  # [SIZE, SIZE, 3]
    png: bytes


def render(drawing: Drawing) -> Picture:
    """Draws, flattens and scales."""
    if isinstance(drawing, str):  # without the machine's fonts, so that every machine draws the same
        drawing = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=VECTOR_SIZE, height=VECTOR_SIZE,
                                              skip_system_fonts=True))
    image = flatten(Image.open(io.BytesIO(drawing)))
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=9)
    return Picture(image.tobytes(), png.getvalue())


def flatten(image: Image.Image) -> Image.Image:
    """Lays the image on white. `convert("RGB")` alone would uncover the arbitrary colours below alpha 0."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
