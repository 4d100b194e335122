"""Finds each vendor's artwork of each emoji in its package."""

import json
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import NamedTuple

from dataset import packages, pins
from dataset.concepts import CodePoints, from_hex

Artwork = bytes | str  # an encoded bitmap, or the text of an SVG
EMOJI_JSON, ICONS_JSON, CHARACTERS_JSON = "package/emoji.json", "package/icons.json", "package/chars.json"
SVG = ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
       'viewBox="{left} {top} {width} {height}" width="256" height="256">{body}</svg>')


class Vendor(NamedTuple):
    """A publisher of emoji artwork."""

    name: str
    digit: int  # the last digit of its image ids
    package: pins.Package
    read: Callable[[Path, "Vendor"], dict[CodePoints, Artwork]]


def bitmaps(folder: Path, vendor: Vendor) -> dict[CodePoints, Artwork]:
    """The 64-pixel PNGs of an emoji-datasource package."""
    images = f"package/img/{vendor.name}/64/"
    files = packages.read(folder / vendor.package.file,
                          lambda name: name.startswith(images) or name == EMOJI_JSON)
    return {from_hex(entry["unified"]): files[images + entry["image"]]
            for entry in json.loads(files[EMOJI_JSON]) if entry[f"has_img_{vendor.name}"]}


def named_bitmaps(folder: Path, vendor: Vendor) -> dict[CodePoints, Artwork]:
    """WebP images whose file names are code points."""
    files = packages.read(folder / vendor.package.file,
                          lambda name: name.startswith("package/assets/") and name.endswith(".webp"))
    return {from_hex(PurePath(name).stem): data for name, data in files.items()}


def vectors(folder: Path, vendor: Vendor) -> dict[CodePoints, Artwork]:
    """The icons of an Iconify set with a list of its characters."""
    tarball = folder / vendor.package.file
    return icons(packages.read_json(tarball, ICONS_JSON), packages.read_json(tarball, CHARACTERS_JSON))


def vectors_named_as_noto(folder: Path, vendor: Vendor) -> dict[CodePoints, Artwork]:
    """The icons of an Iconify set without such a list, but with the icon names of the Noto set."""
    return icons(packages.read_json(folder / vendor.package.file, ICONS_JSON),
                 packages.read_json(folder / pins.NOTO.file, CHARACTERS_JSON))


def icons(collection: dict, characters: dict[str, str]) -> dict[CodePoints, Artwork]:
    """The icons of a collection by code points; `characters` maps hexadecimal code points to icon names."""
    found: dict[CodePoints, Artwork] = {}
    for code_points, name in sorted(characters.items()):
        if icon := resolve(collection, name):
            found.setdefault(from_hex(code_points), svg(icon, collection))
    return found


def resolve(collection: dict, name: str) -> dict | None:
    """The icon of a name, which may be an alias of another."""
    aliases = collection.get("aliases", {})
    while name in aliases:
        name = aliases[name]["parent"]
    return collection["icons"].get(name)


def svg(icon: dict, collection: dict) -> str:
    """A complete SVG of an icon. A missing size is the collection's, or Iconify's default of 16."""
    def size(side: str) -> int:
        return icon.get(side, collection.get(side, 16))

    return SVG.format(left=icon.get("left", 0), top=icon.get("top", 0),
                      width=size("width"), height=size("height"), body=icon["body"])


GOOGLE = Vendor("google", 5, pins.GOOGLE, bitmaps)
TWITTER = Vendor("twitter", 8, pins.TWITTER, bitmaps)
FLUENT_3D = Vendor("fluent3d", 3, pins.FLUENT_3D, named_bitmaps)
FLUENT_FLAT = Vendor("fluentflat", 4, pins.FLUENT_FLAT, vectors)
OPENMOJI = Vendor("openmoji", 7, pins.OPENMOJI, vectors)
EMOJIONE = Vendor("emojione", 1, pins.EMOJIONE, vectors_named_as_noto)
