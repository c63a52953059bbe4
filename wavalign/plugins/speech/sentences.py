"""The sentences a recogniser may hear: the embedded world's answers or a file of one's own."""

import fsspec

from wavalign.errors import DataError
from wavalign.plugins.speech.wording import plain
from wavalign.plugins.speech.world.facts import answer_sentences


def instrument_name(url: str | None) -> str:
    """What the recogniser of the sentences at `url` is called as an instrument."""
    known = "the embedded world's answers" if url is None else url
    return f"PocketSphinx, which hears nothing but {known}"


def load_sentences(url: str | None) -> tuple[str, ...]:
    """Plain sentences of the file at `url`, one a line; the embedded world's answers for None. Raises DataError."""
    if url is None:
        return answer_sentences()
    try:
        with fsspec.open(url, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url}: the sentences cannot be read: {error}", hint="one sentence a line, UTF-8") from error
    sentences = tuple(dict.fromkeys(plain(line) for line in lines if plain(line)))
    if not sentences:
        raise DataError(f"{url}: holds no sentence", hint="one sentence a line")
    return sentences
