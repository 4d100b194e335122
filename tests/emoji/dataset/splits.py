"""Assigns images and texts to splits, and ids to both."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dataset import vendors
from dataset.concepts import Concept
from dataset.rendering import RenderedImage
from dataset.pins import Counts
from dataset.vendors import Vendor

# The test split measures generalization: its vendor is in no other split.
VENDORS = {
    "train": (vendors.TWITTER, vendors.FLUENT_3D, vendors.FLUENT_FLAT, vendors.OPENMOJI),
    "valid": (vendors.EMOJIONE,),
    "test": (vendors.GOOGLE,),
}


class LabeledImage(NamedTuple):
    """An image with its concept and its vendor."""

    vendor: Vendor
    concept: Concept
    rendered: RenderedImage

    @property
    def id(self) -> int:
        """The image id, from which concept and vendor can be read."""
        return self.concept.id * 10 + self.vendor.digit


def distinct(images: Iterable[LabeledImage]) -> Iterator[LabeledImage]:
    """Drops images that equal an earlier one of the same vendor: some territories share a flag, for instance."""
    seen = set()
    for image in images:
        key = image.vendor, image.rendered.pixels
        if key not in seen:
            seen.add(key)
            yield image


def pixels_digest(images: list[LabeledImage]) -> str:
    """The SHA-256 of every image's id and pixels, in the order of the list."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(str(image.id).encode() + image.rendered.pixels)
    return digest.hexdigest()


def texts(images: list[LabeledImage], language: str, keywords: bool) -> list[dict]:
    """The name of each concept and, with `keywords`, its keywords as a second text, with the ids of its images."""
    image_ids: dict[int, list[int]] = {}
    for image in images:
        image_ids.setdefault(image.concept.id, []).append(image.id)
    rows = []
    for concept in sorted({image.concept.id: image.concept for image in images}.values(), key=lambda c: c.id):
        name, keyword_text = concept.wordings[language]
        for kind, text in enumerate([name, keyword_text] if keywords and keyword_text else [name]):
            rows.append({"text_id": concept.id * 10 + kind, "text": text, "image_ids": sorted(image_ids[concept.id])})
    return rows


def counts(images: list[LabeledImage], rows: list[dict]) -> Counts:
    """The size of a split with these texts."""
    return Counts(len(images), len(rows), sum(len(row["image_ids"]) for row in rows))
