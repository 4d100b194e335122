"""Concepts and their names and keywords in each language. Independent of images and files."""

from typing import NamedTuple

CodePoints = tuple[int, ...]
VARIATION_SELECTOR = 0xFE0F  # requests the colored form; only some packages include it


class Wording(NamedTuple):
    """A concept in one language."""

    name: str
    keywords: str  # the other keywords, joined by spaces; may be empty


class Concept(NamedTuple):
    """One emoji; variants that differ only in skin tone are not concepts of their own."""

    id: int
    code_points: CodePoints
    category: str
    subcategory: str
    wordings: dict[str, Wording]  # by language


def from_hex(text: str) -> CodePoints:
    """`1F469-200D-1F680` as code points, without variation selectors."""
    return tuple(c for c in (int(part, 16) for part in text.split("-")) if c != VARIATION_SELECTOR)


def from_characters(text: str) -> CodePoints:
    """`👩‍🚀` as code points, without variation selectors."""
    return tuple(c for c in map(ord, text) if c != VARIATION_SELECTOR)


def wordings(annotations: dict) -> dict[CodePoints, Wording]:
    """The names and keywords in one `annotations` object of CLDR."""
    return {from_characters(emoji): wording(entry["tts"][0], entry.get("default", []))
            for emoji, entry in annotations.items() if "tts" in entry}


def wording(name: str, keywords: list[str]) -> Wording:
    """A name and its keywords. CLDR lists the name as a keyword too; here it is not repeated."""
    return Wording(name, " ".join(k for k in keywords if k != name))


def concepts(emoji: list[dict], languages: dict[str, dict[CodePoints, Wording]]) -> list[Concept]:
    """Every emoji with a name in all languages, in Unicode's order, without the skin tones themselves."""
    kept = []
    for entry in sorted(emoji, key=lambda entry: entry["sort_order"]):
        code_points = from_hex(entry["unified"])
        if entry["category"] != "Component" and all(code_points in words for words in languages.values()):
            named = {language: words[code_points] for language, words in languages.items()}
            kept.append(Concept(len(kept) + 1, code_points, entry["category"], entry["subcategory"], named))
    return kept
