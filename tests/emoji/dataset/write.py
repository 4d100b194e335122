"""Writes a data set's files, as Chinese-CLIP's tools read them. Decides nothing about what is in them."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from dataset.concepts import Concept
from dataset.splits import Drawn


def split(folder: Path, name: str, drawn: list[Drawn], texts: list[dict]) -> None:
    """`NAME_imgs.tsv` (id, tab, base64 of the PNG; by id) and `NAME_texts.jsonl`."""
    folder.mkdir(exist_ok=True)
    lines(folder / f"{name}_imgs.tsv", (f"{item.id}\t{base64.b64encode(item.picture.png).decode()}"
                                        for item in sorted(drawn, key=lambda item: item.id)))
    captions(folder, name, texts)


def captions(folder: Path, name: str, texts: list[dict]) -> None:
    """`NAME_texts.jsonl`."""
    lines(folder / f"{name}_texts.jsonl", (json.dumps(text, ensure_ascii=False) for text in texts))


def concepts(folder: Path, known: list[Concept], language: str) -> None:
    """`concepts.json`: what the ids mean, named in one language."""
    rows = [{"id": c.id, "code_points": "-".join(f"{point:X}" for point in c.code_points),
             "name": c.wordings[language].name, "category": c.category, "subcategory": c.subcategory} for c in known]
    lines(folder / "concepts.json", [json.dumps(rows, ensure_ascii=False, indent=1)])


def info(folder: Path, said: dict) -> None:
    """`info.json`: what the data set is, with the sha256 of every other file."""
    digests = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
               for file in sorted(folder.rglob("*")) if file.is_file()}
    lines(folder / "info.json", [json.dumps(said | {"sha256": digests}, indent=1)])


def lines(path: Path, content: Iterable[str]) -> None:
    """UTF-8, and every line ended by one newline, on any system."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in content)
