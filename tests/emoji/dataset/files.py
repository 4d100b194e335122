"""Writes a data set's files in the formats of Chinese-CLIP's tools."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from dataset.concepts import Concept
from dataset.splits import LabeledImage


def write_split(folder: Path, name: str, images: list[LabeledImage], texts: list[dict]) -> None:
    """`NAME_imgs.tsv` (id, tab, base64 of the PNG; by id) and `NAME_texts.jsonl`."""
    folder.mkdir(exist_ok=True)
    rows = (f"{image.id}\t{base64.b64encode(image.rendered.png).decode()}"
            for image in sorted(images, key=lambda image: image.id))
    write_lines(folder / f"{name}_imgs.tsv", rows)
    write_texts(folder, name, texts)


def write_texts(folder: Path, name: str, texts: list[dict]) -> None:
    """`NAME_texts.jsonl`."""
    write_lines(folder / f"{name}_texts.jsonl", (json.dumps(text, ensure_ascii=False) for text in texts))


def write_concepts(folder: Path, known: list[Concept], language: str) -> None:
    """`concepts.json`: the concept of each id, with its name in one language."""
    rows = [{"id": c.id, "code_points": "-".join(f"{point:X}" for point in c.code_points),
             "name": c.wordings[language].name, "category": c.category, "subcategory": c.subcategory} for c in known]
    write_lines(folder / "concepts.json", [json.dumps(rows, ensure_ascii=False, indent=1)])


def write_info(folder: Path, description: dict) -> None:
    """`info.json`: a description of the data set, with the SHA-256 of every other file."""
    digests = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
               for file in sorted(folder.rglob("*")) if file.is_file()}
    write_lines(folder / "info.json", [json.dumps(description | {"sha256": digests}, indent=1)])


def write_lines(path: Path, content: Iterable[str]) -> None:
    """Writes UTF-8 with Unix line endings on any system, because digests are compared."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in content)
