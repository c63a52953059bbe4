"""What a listener understands of both embedded worlds: gold answers, as spoken and after a codec, heard by Whisper.

    python benchmarks/voices.py [--every 2] [--fit] [--prices] [--codec FILE]

Answers are all those that can be said (79), every `--every`-th of them, in turning styles and a rendition that the
codecs were not fitted on. `words` is the share whose answer word is heard, `WER` the error rate of the whole sentence,
both by sound (`four` = `for`); DNSMOS is that of every fourth. Without `--fit` the shipped codecs are measured; with it
a source-filter codec is fitted to the natural world, too, in three sizes. `--prices` adds what speaking takes.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import soxr
import torch

from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.codecs.phonetic import PhoneticCodec, PhoneticParams
from wavalign.plugins.codecs.source_filter import SourceFilterCodec, SourceFilterParams
from wavalign.plugins.speech.codebooks import Settings, fit, save
from wavalign.plugins.speech.quality import assess
from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.whisper import whisper
from wavalign.plugins.speech.word_errors import edit_distance
from wavalign.plugins.speech.world.facts import answer_sentences
from wavalign.plugins.speech.world.speakers import SpeakersName, speakers
from wavalign.plugins.speech.world.speaking import say

BASES = ROOT / "recipes" / "base"
RATE = 16_000
Pass = Callable[[Waveform], Waveform]


def spoken(world: SpeakersName, every: int, jitter: int) -> list[tuple[str, Waveform]]:
    """Sentences and their sounds at 16 kHz, sentence after sentence in another style."""
    cast = speakers(world)
    sentences = answer_sentences()[::every]
    return [(text, at_rate(say(text, cast.answer(index % 5, jitter)))) for index, text in enumerate(sentences)]


def price(world: SpeakersName, voice: str | None) -> None:
    """What a second of speech takes to make: of the assistant for None, else of a user's voice."""
    cast, taken, seconds = speakers(world), 0.0, 0.0
    say("one", cast.answer(0, 0) if voice is None else cast.question(0, "words", voice, (0, 0, 0)))  # loads the voice
    for text in answer_sentences()[::8]:
        start = time.process_time()
        clip = say(text, cast.answer(0, 0) if voice is None else cast.question(0, "words", voice, (0, 0, 0)))
        taken, seconds = taken + time.process_time() - start, seconds + clip.seconds
    print(f"| {world}, {voice or 'the assistant'} | {taken / seconds:.3f} |", flush=True)


def at_rate(waveform: Waveform) -> Waveform:
    samples = soxr.resample(waveform.samples, waveform.sample_rate, RATE)
    return Waveform(samples.astype("float32"), RATE)


def row(name: str, rate: float, clips: Sequence[tuple[str, Waveform]], through: Pass) -> None:
    ears, right, errors, words, quality, taken, seconds = whisper(1), 0, 0, 0, [], 0.0, 0.0
    for index, (text, clip) in enumerate(clips):
        start = time.process_time()
        sound = through(clip)
        taken, seconds = taken + time.process_time() - start, seconds + clip.seconds
        heard, wanted = sounds(ears.recognize(sound)), sounds(text)
        right += heard[-1:] == wanted[-1:]
        errors, words = errors + edit_distance(heard, wanted), words + len(wanted)
        if index % 4 == 0 and (score := assess(sound, overall=True)) is not None:
            quality.append(score.overall or 0.0)
    cells = (f"{rate:.1f}" if rate else "", f"{right / len(clips):.3f}", f"{errors / words:.3f}")
    mean = sum(quality) / max(1, len(quality))
    print(f"| {name} | {' | '.join(cells)} | {mean:.2f} | {taken / seconds:.3f} |", flush=True)


def through(codec: Codec) -> Pass:
    return lambda clip: codec.decode(codec.encode(clip))


def fitted(clips: Sequence[Waveform], settings: Settings, folder: str) -> SourceFilterCodec:
    path = Path(folder, "codec.safetensors")
    save(fit(clips, settings, generator=torch.Generator().manual_seed(0)), path)
    return SourceFilterCodec(SourceFilterParams(checkpoint=str(path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--prices", action="store_true")
    parser.add_argument("--codec", type=Path, default=BASES / "natural-world" / "codec.safetensors")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| answers | tokens/s | words | WER | DNSMOS | codec s/s |\n|---|---:|---:|---:|---:|---:|")
    espeak, natural = spoken("espeak", given.every, 7), spoken("natural", given.every, 7)
    row("spoken world, as spoken", 0.0, espeak, lambda clip: clip)
    shipped = SourceFilterCodec(SourceFilterParams(checkpoint=str(BASES / "spoken-world" / "codec.safetensors")))
    row("spoken world, its codec", 2 * shipped.frame_rate, espeak, through(shipped))
    row("natural world, as spoken", 0.0, natural, lambda clip: clip)
    if given.codec.is_file():
        phonetic = PhoneticCodec(PhoneticParams(checkpoint=str(given.codec)))
        row("natural world, phonetic", 2 * phonetic.frame_rate, natural, through(phonetic))
    if given.fit:
        clips = [clip for jitter in (0, 3) for _, clip in spoken("natural", 1, jitter)]
        with tempfile.TemporaryDirectory() as folder:
            for settings in (Settings(1024, 128, 4), Settings(1024, 128, 2), Settings(2048, 128, 2)):
                codec = fitted(clips, settings, folder)
                name = f"natural world, source_filter of {settings.num_content}"
                row(name, 2 * codec.frame_rate, natural, through(codec))
    if given.prices:
        print("\n| voice | s per s of speech |\n|---|---:|")
        price("espeak", None)
        for voice in (None, *speakers("natural").taught, *speakers("natural").unseen):
            price("natural", voice)


if __name__ == "__main__":
    main()
