"""Runs the steps from packages to a folder that holds a whole data set. Leaves no half-built folder behind."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from dataset import packages, pins, splits, tell, write
from dataset.concepts import Concept, concepts, wordings
from dataset.pictures import SIZE, render
from dataset.vendors import EMOJI_JSON, Vendor

LANGUAGES = {"zh": "", "en": "en"}  # each with its folder inside the data set


class Unfaithful(Exception):
    """What came out is not what the pins promise."""


def recipe() -> str:
    """Names a result by everything it is made from: this program, its pins and its requirements."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here.parent / "requirements.txt"]
    return hashlib.sha256(b"\0".join(s.name.encode() + b"\0" + s.read_bytes() for s in sources)).hexdigest()[:16]


def cached(cache: Path) -> Path:
    """The folder of the data set in the cache; builds it if it is not there."""
    whole = cache / f"emoji-{recipe()}"
    if whole.is_dir():
        return whole
    with aside(whole) as folder:
        build(folder, cache)
    return whole


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` only if nothing fails and nobody else was first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as outer:
        inner = Path(outer, "whole")
        inner.mkdir()
        yield inner
        if not target.is_dir():
            inner.rename(target)


def build(folder: Path, cache: Path) -> None:
    """Makes the data set in an empty folder."""
    tarballs = cache / "npm"
    with tell.timed(f"{len(pins.PACKAGES)} npm packages"):
        packages.fetch(pins.PACKAGES, tarballs)
    with tell.timed("the vocabulary"):
        packages.fetch_vocabulary(cache / "vocab.txt")
    known = read_concepts(tarballs)
    said = {}
    for split, vendors in splits.VENDORS.items():
        with tell.timed(f"{split}, drawn by {', '.join(v.name for v in vendors)}"):
            drawn = [item for vendor in vendors for item in draw(vendor, known, tarballs)]
            said[split] = write_split(folder, split, drawn)
    for language, place in LANGUAGES.items():
        write.concepts(folder / place, known, language)
    shutil.copy(cache / "vocab.txt", folder)
    write.info(folder, {"recipe": recipe(), "drawn_with": {name: version(name) for name in ("pillow", "resvg-py")},
                        "image_size": SIZE, "concepts": len(known), "splits": said})


def read_concepts(tarballs: Path) -> list[Concept]:
    """The concepts with their wordings in every language."""
    languages = {language: {} for language in LANGUAGES}
    for package, root in ((pins.CLDR, "annotations"), (pins.CLDR_DERIVED, "annotationsDerived")):
        for language, words in languages.items():
            document = packages.read_json(tarballs / package.file, f"package/{root}/{language}/annotations.json")
            words.update(wordings(document[root]["annotations"]))
    return concepts(packages.read_json(tarballs / pins.GOOGLE.file, EMOJI_JSON), languages)


def draw(vendor: Vendor, known: list[Concept], tarballs: Path) -> Iterator[splits.Drawn]:
    """A vendor's distinct pictures of the concepts it has drawn, in the concepts' order."""
    drawings = vendor.read(tarballs, vendor)
    shown = [concept for concept in known if concept.code_points in drawings]
    with ProcessPoolExecutor() as pool:
        pictures = pool.map(render, [drawings[concept.code_points] for concept in shown], chunksize=32)
        yield from splits.distinct(splits.Drawn(vendor, c, p) for c, p in zip(shown, pictures))


def write_split(folder: Path, split: str, drawn: list[splits.Drawn]) -> dict:
    """Writes one split in every language; returns what info.json says of it."""
    pixels = splits.pixels_digest(drawn)
    expect(f"the pixels of {split}", pixels, pins.PIXELS[split])
    said = {"vendors": [v.name for v in splits.VENDORS[split]], "pixels_sha256": pixels}
    for language, place in LANGUAGES.items():
        texts = splits.texts(drawn, language, keywords=split == "train")
        counts = splits.counts(drawn, texts)
        expect(f"{split} in {language}", counts, pins.COUNTS[language][split])
        write.split(folder / place, split, drawn, texts)
        if split == "train":
            write.captions(folder / place, "train_names", splits.texts(drawn, language, keywords=False))
        said[language] = counts._asdict()
    return said


def expect(what: str, found: object, expected: object) -> None:
    """Refuses to go on with anything but the pinned result."""
    if found != expected:
        raise Unfaithful(f"{what}: found {found}, expected {expected}. The packages are the pinned ones, so this "
                         "program or its libraries draw differently; correct that, or pin the new result on purpose.")
