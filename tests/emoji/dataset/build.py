"""The steps from packages to a complete data set. A partial result is never left behind."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from dataset import files, packages, pins, progress, splits
from dataset.concepts import Concept, concepts, wordings
from dataset.rendering import IMAGE_SIZE, render
from dataset.vendors import EMOJI_JSON, Vendor

LANGUAGES = {"zh": "", "en": "en"}  # each with its folder in the data set
FETCH_VOCABULARY = Path(__file__).parents[3] / "packaging/vocabulary/fetch"


class UnexpectedResult(Exception):
    """The result is not the one that `pins` expects."""


def recipe() -> str:
    """A digest of everything that decides the result: this program, its pins and its requirements."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here.parent / "requirements.txt"]
    return hashlib.sha256(b"\0".join(s.name.encode() + b"\0" + s.read_bytes() for s in sources)).hexdigest()[:16]


def cached(cache: Path) -> Path:
    """The folder of the data set in the cache; builds it if it is not there."""
    complete = cache / f"emoji-{recipe()}"
    if complete.is_dir():
        return complete
    with temporary_folder(complete) as folder:
        build(folder, cache)
    return complete


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A folder that is renamed to `target` if the enclosed work succeeds and no other process was faster."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as outer:
        inner = Path(outer, "complete")
        inner.mkdir()
        yield inner
        if not target.is_dir():
            inner.rename(target)


def build(folder: Path, cache: Path) -> None:
    """Makes the data set in an empty folder."""
    tarballs = cache / "npm"
    with progress.timed(f"{len(pins.PACKAGES)} npm packages"):
        packages.fetch(pins.PACKAGES, tarballs)
    with progress.timed("the vocabulary"):
        packages.run([str(FETCH_VOCABULARY), str(folder / "vocab.txt")], "Check that pip reaches PyPI.")
    known = read_concepts(tarballs)
    counts = {}
    for split, vendors in splits.VENDORS.items():
        with progress.timed(f"{split}, rendered from {', '.join(v.name for v in vendors)}"):
            images = [image for vendor in vendors for image in render_vendor(vendor, known, tarballs)]
            counts[split] = write_split(folder, split, images)
    for language, subfolder in LANGUAGES.items():
        files.write_concepts(folder / subfolder, known, language)
    files.write_info(folder, {
        "recipe": recipe(), "drawn_with": {name: version(name) for name in ("pillow", "resvg-py")},
        "image_size": IMAGE_SIZE, "concepts": len(known), "splits": counts})


def read_concepts(tarballs: Path) -> list[Concept]:
    """The concepts with their wordings in every language."""
    languages = {language: {} for language in LANGUAGES}
    for package, root in ((pins.CLDR, "annotations"), (pins.CLDR_DERIVED, "annotationsDerived")):
        for language, words in languages.items():
            document = packages.read_json(tarballs / package.file, f"package/{root}/{language}/annotations.json")
            words.update(wordings(document[root]["annotations"]))
    return concepts(packages.read_json(tarballs / pins.GOOGLE.file, EMOJI_JSON), languages)


def render_vendor(vendor: Vendor, known: list[Concept], tarballs: Path) -> Iterator[splits.LabeledImage]:
    """A vendor's distinct images of the concepts that it has artwork for, in the concepts' order."""
    artwork = vendor.read(tarballs, vendor)
    available = [concept for concept in known if concept.code_points in artwork]
    with ProcessPoolExecutor() as pool:
        # map keeps the order, so the result does not depend on which process finishes first.
        images = pool.map(render, [artwork[concept.code_points] for concept in available], chunksize=32)
        yield from splits.distinct(splits.LabeledImage(vendor, concept, image)
                                   for concept, image in zip(available, images))


def write_split(folder: Path, split: str, images: list[splits.LabeledImage]) -> dict:
    """Writes a split in every language; returns its entry in info.json."""
    pixels = splits.pixels_digest(images)
    verify(f"the pixels of {split}", pixels, pins.PIXELS[split])
    entry = {"vendors": [v.name for v in splits.VENDORS[split]], "pixels_sha256": pixels}
    for language, subfolder in LANGUAGES.items():
        texts = splits.texts(images, language, keywords=split == "train")
        counts = splits.counts(images, texts)
        verify(f"{split} in {language}", counts, pins.COUNTS[language][split])
        files.write_split(folder / subfolder, split, images, texts)
        if split == "train":
            files.write_texts(folder / subfolder, "train_names", splits.texts(images, language, keywords=False))
        entry[language] = counts._asdict()
    return entry


def verify(description: str, found: object, expected: object) -> None:
    """Raises an error unless the result is the pinned one."""
    if found != expected:
        raise UnexpectedResult(f"{description}: found {found}, expected {expected}. The packages are the pinned ones, so "
                               "this program or its libraries render differently; fix that, or pin the new result.")
