"""Real pictures in ELEVATER's layout, as zero-shot classification reads them.

    tests/python tests/twins tests/twins/elevater.py digits OUT
    tests/python tests/twins tests/twins/elevater.py emoji OUT --data FOLDER

Digits are those that scikit-learn carries, 1,797 of ten classes; emoji are those of FOLDER, which `tests/emoji/build`
makes, by their nine categories.
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


def write(folder, names, pictures):
    """Writes pictures, pairs of a class and a Pillow image, and the names of the classes; the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    Path(folder, "label_cn.txt").write_text("".join(f"{name}\n" for name in names))
    files, digits = [], 1 if len(names) <= 10 else 3
    for number, (label, picture) in enumerate(pictures):
        file = Path("test", f"{label:0{digits}}", f"{number:05}.png")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / file)
        files.append(str(file))
    return files


def digits(folder, wanted=range(10)):
    """Handwritten digits of 8×8 pixels; only some of the ten, if told so."""
    found = load_digits()
    rows = [(wanted.index(label), gray(pixels)) for label, pixels in zip(found.target, found.images, strict=True)
            if label in wanted]
    return write(folder, [DIGITS[digit] for digit in wanted], rows)


def pairs(folder, count):
    """Pictures of two digits beside each other, in the folder of the left one; `test_labels.jsonl` names both."""
    found = load_digits()
    both = [(found.target[n:n + 2].tolist(), numpy.hstack(found.images[n:n + 2])) for n in range(count)]
    files = write(folder, DIGITS, [(labels[0], gray(pixels)) for labels, pixels in both])
    lines = [json.dumps({"file": file, "classes": labels}) for file, (labels, _) in zip(files, both, strict=True)]
    Path(folder, "test_labels.jsonl").write_text("\n".join(lines))
    return dict(zip(files, (labels for labels, _ in both), strict=True))


def emoji(folder, data, split="test"):
    """The drawings of a split by their category."""
    concepts = {row["id"]: row["category"] for row in json.loads((data / "concepts.json").read_text())}
    categories, rows = list(CATEGORIES), []
    for line in (data / f"{split}_imgs.tsv").read_text().splitlines():
        number, encoded = line.split("\t")
        picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
        rows.append((categories.index(concepts[int(number) // 10]), picture))
    return write(folder, CATEGORIES.values(), rows)


def gray(pixels):
    return Image.fromarray((pixels * 15.9375).astype(numpy.uint8))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["digits", "emoji"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder of concepts.json and test_imgs.tsv")
    chosen = parser.parse_args()
    if chosen.what == "emoji" and not chosen.data:
        parser.error("emoji needs --data")
    files = digits(chosen.out) if chosen.what == "digits" else emoji(chosen.out, chosen.data)
    print(f"{len(files)} pictures in {chosen.out}")


if __name__ == "__main__":
    main()
