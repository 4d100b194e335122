"""Writes real images in ELEVATER's layout, as zero-shot classification reads them.

    packaging/python tests/parity tests/parity/elevater_data.py digits OUT
    packaging/python tests/parity tests/parity/elevater_data.py emoji OUT --data FOLDER

The digits are scikit-learn's: 1,797 images of ten classes. The emoji are those of a FOLDER written by
`tests/emoji/build`; their classes are the nine categories.
"""

import argparse
import base64
import io
import json
from pathlib import Path

import numpy
from PIL import Image
from sklearn.datasets import load_digits

DIGITS = "零一二三四五六七八九"
CATEGORIES = {
    "Smileys & Emotion": "表情", "People & Body": "人物", "Animals & Nature": "动物和植物", "Food & Drink": "食物和饮料",
    "Travel & Places": "交通和地点", "Activities": "活动", "Objects": "物品", "Symbols": "符号", "Flags": "旗帜",
}


def write(folder, names, labeled_images):
    """Writes images, given as pairs of class and Pillow image, and the class names; returns the files' paths."""
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, "label_cn.txt").write_text("".join(f"{name}\n" for name in names))
    files = []
    digits = 1 if len(names) <= 10 else 3  # class folders sort as numbers
    for number, (label, image) in enumerate(labeled_images):
        file = Path("test", f"{label:0{digits}}", f"{number:05}.png")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / file)
        files.append(str(file))
    return files


def write_digits(folder, selected=range(10)):
    """Writes handwritten digits of 8×8 pixels, one class for each selected digit."""
    found = load_digits()
    rows = [(selected.index(label), to_image(pixels)) for label, pixels in zip(found.target, found.images, strict=True)
            if label in selected]
    return write(folder, [DIGITS[digit] for digit in selected], rows)


def write_digit_pairs(folder, count):
    """Writes images of two digits, in the folder of the left one; `test_labels.jsonl` names both classes.

    Returns the classes of each file.
    """
    found = load_digits()
    pairs = [(found.target[n:n + 2].tolist(), numpy.hstack(found.images[n:n + 2])) for n in range(count)]
    files = write(folder, DIGITS, [(labels[0], to_image(pixels)) for labels, pixels in pairs])
    lines = [json.dumps({"file": file, "classes": labels}) for file, (labels, _) in zip(files, pairs, strict=True)]
    Path(folder, "test_labels.jsonl").write_text("\n".join(lines))
    return dict(zip(files, (labels for labels, _ in pairs), strict=True))


def write_emoji(folder, data, split="test"):
    """Writes the emoji of a split, by category."""
    concepts = {row["id"]: row["category"] for row in json.loads((data / "concepts.json").read_text())}
    categories = list(CATEGORIES)
    rows = []
    for line in (data / f"{split}_imgs.tsv").read_text().splitlines():
        number, encoded = line.split("\t")
        image = Image.open(io.BytesIO(base64.b64decode(encoded)))
        rows.append((categories.index(concepts[int(number) // 10]), image))
    return write(folder, CATEGORIES.values(), rows)


def to_image(pixels):
    """A grayscale image of pixels from 0 to 16."""
    return Image.fromarray((pixels * 15.9375).astype(numpy.uint8))


def main():
    """Parses the command line and writes the arguments images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", choices=["digits", "emoji"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder of concepts.json and test_imgs.tsv")
    arguments = parser.parse_args()
    if arguments.images == "emoji" and not arguments.data:
        parser.error("emoji needs --data")
    files = write_digits(arguments.out) if arguments.images == "digits" else write_emoji(arguments.out, arguments.data)
    print(f"{len(files)} images in {arguments.out}")


if __name__ == "__main__":
    main()
