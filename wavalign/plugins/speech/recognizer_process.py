"""A recogniser process: PocketSphinx with a trigram model of given sentences. No torch here.

Run as `python -m wavalign.plugins.speech.recognizer_process FOLDER` it serves `recognizer.Recognizer`: for each
utterance it reads a little-endian uint32 count of bytes and so many bytes of 16-bit samples, and writes one line with
the words it heard; with their places where the count's highest bit is set.
"""

import struct
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pocketsphinx
from pocketsphinx.lm import ArpaBoLM

from wavalign.errors import DataError

SAMPLE_RATE = 16_000
FRAMES_PER_SECOND = 100
TIMED = 1 << 31
"""In a request's count of bytes: tell where the words are."""
_DISCOUNT = 0.02
"""Probability left for word orders no sentence has: at the library's own 0.5 a clear answer is heard less often."""
_LEAD_SECONDS = 0.2
_LEAD_AMPLITUDE = 3e-4 * 32768
"""Faint noise around the utterance: without it the recogniser loses first words (right content words, 99 clips: .65
without, .85 with)."""


def write_model(sentences: Sequence[str], folder: Path) -> None:
    """Write the trigram model of `sentences` and the dictionary of their words; DataError for an unknown word."""
    words = _pronunciations(sentences)
    grammar = ArpaBoLM(text="\n".join(sentences), add_start=True, discount_mass=_DISCOUNT)
    grammar.compute()
    with (folder / "sentences.arpa").open("w") as file:
        grammar.write(file)
    (folder / "words.dict").write_text(words)


def recognize(samples: bytes, folder: Path) -> str:
    """Words in 16-bit `samples` at 16 kHz, separated by spaces."""
    hypothesis = _heard(samples, folder).hyp()
    return str(hypothesis.hypstr) if hypothesis is not None else ""


def timed(samples: bytes, folder: Path) -> str:
    """The same words with their places, `WORD:FIRST:LAST` each, in hundredths of a second of `samples`."""
    decoder, lead = _heard(samples, folder), round(_LEAD_SECONDS * FRAMES_PER_SECOND)
    if decoder.hyp() is None:
        return ""
    segments = [each for each in decoder.seg() if each.word[0] not in "<[+"]  # neither pauses nor noises
    return " ".join(
        f"{each.word.partition('(')[0]}:{max(each.start_frame - lead, 0)}:{max(each.end_frame - lead, 0)}"
        for each in segments
    )


def _heard(samples: bytes, folder: Path) -> Any:
    """A decoder that has listened to `samples`.

    It is built anew (17 ms): a used one remembers the utterance before and may hear the same sound otherwise.
    """
    decoder: Any = pocketsphinx.Decoder(
        lm=str(folder / "sentences.arpa"),
        dict=str(folder / "words.dict"),
        cmn="batch",
        fwdflat=False,
        loglevel="FATAL",
    )
    decoder.start_utt()
    decoder.process_raw(_lead() + samples + _lead(), no_search=False, full_utt=True)
    decoder.end_utt()
    return decoder


@cache
def dictionary() -> dict[str, tuple[str, ...]]:
    """Word -> its pronunciations, from the CMU dictionary that PocketSphinx brings."""
    words: dict[str, list[str]] = {}
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    for line in path.read_text().splitlines():
        head, _, phones = line.partition(" ")
        words.setdefault(head.partition("(")[0], []).append(phones)
    return {word: tuple(phones) for word, phones in words.items()}


@cache
def _lead() -> bytes:
    noise = np.random.default_rng(0).standard_normal(int(_LEAD_SECONDS * SAMPLE_RATE)) * _LEAD_AMPLITUDE
    return noise.astype("<i2").tobytes()


def _pronunciations(sentences: Sequence[str]) -> str:
    lines = []
    for word in sorted({word for sentence in sentences for word in sentence.split()}):
        if word not in dictionary():
            raise DataError(
                f"the recogniser's dictionary does not know {word!r}",
                hint="use lower-case English words; spell numbers out",
            )
        for index, phones in enumerate(dictionary()[word]):
            lines.append(f"{word} {phones}" if index == 0 else f"{word}({index + 1}) {phones}")
    return "\n".join(lines) + "\n"


def serve(folder: Path) -> None:
    """Answer utterances from standard input until it closes."""
    stdin, stdout = sys.stdin.buffer, sys.stdout
    while len(header := stdin.read(4)) == 4:
        size = struct.unpack("<I", header)[0]
        listen = timed if size & TIMED else recognize
        stdout.write(listen(stdin.read(size & ~TIMED), folder) + "\n")
        stdout.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
