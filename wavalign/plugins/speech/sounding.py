"""Words by their sound, for what an open-vocabulary recogniser wrote down: it cannot know how a word is spelled.

`four` = `for`, `two` = `too` = `to`, `colour` = `color`. A word becomes its first pronunciation in the CMU dictionary,
stress left out; a whole number up to twenty that of its word; what the dictionary lacks stays as it is. `read` has two
pronunciations, of which only the first counts. The dictionary comes with the package pocketsphinx.
"""

from functools import cache
from pathlib import Path

from wavalign.errors import PluginError
from wavalign.plugins.speech.number_words import SMALL
from wavalign.plugins.speech.shipped import module_folder
from wavalign.plugins.speech.wording import tokens

_FILE = Path("model/en-us/cmudict-en-us.dict")


def sounds(text: str) -> tuple[str, ...]:
    """`text` as what is compared: for each of its tokens how it sounds. Raises PluginError without the dictionary."""
    known = _pronunciations()
    return tuple(known.get(_spelled(token), token) for token in tokens(text))


def dictionary_words() -> tuple[str, ...]:
    """Words of three to eight letters, sorted. Raises PluginError without the dictionary."""
    return tuple(sorted(word for word in _pronunciations() if word.isalpha() and 3 <= len(word) <= 8))


def _spelled(token: str) -> str:
    return SMALL[int(token)] if token.isascii() and token.isdecimal() and int(token) < len(SMALL) else token


@cache
def _pronunciations() -> dict[str, str]:
    """Word -> phones in slashes, which no token has."""
    folder = module_folder("pocketsphinx")
    if folder is None:
        raise PluginError(
            "comparing words by their sound needs the package pocketsphinx", hint='pip install "wavalign[speech]"'
        )
    lines = (folder / _FILE).read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines)
    return {word: f"/{phones}/" for word, phones in pairs if not word.endswith(")")}
