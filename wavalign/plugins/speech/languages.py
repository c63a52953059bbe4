"""Which script and which language a text is written in.

Scripts are counted letter by letter, by the names of Unicode (`LATIN SMALL LETTER A`): exact, for any length. Languages
are told by py3langid (97 of them, weights in the package, nothing downloaded; extra `guards`), which is a guess: of
short texts a poor one. `python benchmarks/languages.py` prints how poor.
"""

import importlib.util
import unicodedata
from functools import cache
from typing import Any

from wavalign.errors import PluginError

SCRIPTS = {
    "latin": ("LATIN",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "bengali": ("BENGALI",),
    "tamil": ("TAMIL",),
    "thai": ("THAI",),
    "hangul": ("HANGUL",),
    "han": ("CJK",),
    "japanese": ("HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"),
}
"""First words of the Unicode names of a script's letters, by the name a recipe gives it."""


def script_share(text: str, scripts: tuple[str, ...]) -> float | None:
    """Share of the letters of `text` that are of one of `scripts`; None without letters."""
    letters = [unicodedata.name(each, "").split(" ", 1)[0] for each in text if each.isalpha()]
    wanted = {word for script in scripts for word in SCRIPTS[script]}
    # Full-width letters and ligatures are of their script all the same.
    return sum(each in wanted for each in map(_plain, letters)) / len(letters) if letters else None


def _plain(word: str) -> str:
    return "LATIN" if word == "FULLWIDTH" else word


def check_languages(language: str) -> None:
    """Raise PluginError where nothing tells languages apart, or not this one."""
    if importlib.util.find_spec("py3langid") is None:
        raise PluginError(
            "telling languages apart needs the package py3langid",
            hint='pip install "wavalign[guards]", or name `scripts` alone',
        )
    known = sorted(set(_identifier().labels))
    if language not in known:
        raise PluginError(f"there is no language {language!r}", hint=f"one of {', '.join(known)}")


def language_of(text: str) -> tuple[str, float]:
    """The most probable language of `text` (ISO 639-1) and its probability."""
    found, probability = _identifier().classify(text)
    return str(found), float(probability)


@cache
def _identifier() -> Any:
    """Loaded once: some 2 s."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # absent without the extra

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
