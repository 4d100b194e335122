"""Decides which pictures and texts belong to a split, and under which ids. Neither draws nor writes."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dataset import vendors
from dataset.concepts import Concept
from dataset.pictures import Picture
from dataset.pins import Counts
from dataset.vendors import Vendor

# Test shows every concept as drawn by a vendor that training never saw.
VENDORS = {
    "train": (vendors.TWITTER, vendors.FLUENT_3D, vendors.FLUENT_FLAT, vendors.OPENMOJI),
    "valid": (vendors.EMOJIONE,),
    "test": (vendors.GOOGLE,),
}


class Drawn(NamedTuple):
    """A concept as one vendor drew it."""

    vendor: Vendor
    concept: Concept
    picture: Picture

    @property
    def id(self) -> int:
        return self.concept.id * 10 + self.vendor.digit


def distinct(drawn: Iterable[Drawn]) -> Iterator[Drawn]:
    """Drops a picture that equals an earlier one by the same vendor: territories share flags, for instance."""
    seen = set()
    for item in drawn:
        key = item.vendor, item.picture.pixels
        if key not in seen:
            seen.add(key)
            yield item


def pixels_digest(split: list[Drawn]) -> str:
    """The sha256 of every image's id and pixels, in the order they were drawn."""
    digest = hashlib.sha256()
    for item in split:
        digest.update(str(item.id).encode() + item.picture.pixels)
    return digest.hexdigest()


def texts(split: list[Drawn], language: str, keywords: bool) -> list[dict]:
    """Per concept its name and, if asked for, its keywords, with the images they describe."""
    images: dict[int, list[int]] = {}
    for item in split:
        images.setdefault(item.concept.id, []).append(item.id)
    rows = []
    for concept in sorted({item.concept.id: item.concept for item in split}.values(), key=lambda c: c.id):
        name, further = concept.wordings[language]
        for kind, text in enumerate([name, further] if keywords and further else [name]):
            rows.append({"text_id": concept.id * 10 + kind, "text": text, "image_ids": sorted(images[concept.id])})
    return rows


def counts(split: list[Drawn], rows: list[dict]) -> Counts:
    """How large a split is."""
    return Counts(len(split), len(rows), sum(len(row["image_ids"]) for row in rows))
